"""What the trainers on a frozen CLIP share: its loading, the training step, the test.

Of the library this module alone needs a toolbox, and takes whichever `dassl` is on the path.
"""

import sys
from collections import defaultdict
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.data import BatchSampler

from dassl.data.data_manager import build_data_loader
from dassl.data.samplers import EpochSeeds
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from sotglp import parallel
from sotglp.backbones import load_clip
from sotglp.features import EncodedImages, EncodedViews
from sotglp.memory import memory_budget
from sotglp.precision import MixedPrecision
from sotglp.prompts import Prompts, check_names, start_contexts, with_stops


class CLIPTrainer(TrainerX):
    """A frozen CLIP with something learned beside it.

    A method names its node of the configuration in NODE, and writes
        make_model(clip, names)         a sotglp.PromptedCLIP, of which `learned` is trained and saved
        losses(match, targets, text)    {name: term} of the loss, their sum; the cross-entropy of the scores by default
        scores(match)                   (B, C), of which the largest is predicted; the image's cosines by default
        branches(match)                 {name: scores} whose accuracies are told beside it
        probabilities(match)            the softmax of these scores, unless they are probabilities already
    where `match` is what the model makes of a batch of images and `text`.
    """

    NODE = None
    # Of the keys that the nodes have; the toolbox refuses others before it reads anything.
    RANGES = {
        **{key: "[0, inf)" for key in ("TOPK", "N_GLOBAL", "N_LOCAL", "W", "LAMBDA", "ALPHA", "BETA", "DECAY")},
        **{key: "[1, inf)" for key in ("N", "N_CTX", "DEPTH", "RANK", "VIEWS")},
        **{key: "[0, inf)" for key in ("BLOCK", "TEXT_WEIGHT", "IMAGE_WEIGHT")},
        **{key: "(0, inf)" for key in ("EPS", "GPA_STD")},
        **{"PROMPT_DROPOUT": "[0, 1]", "DROPOUT": "[0, 1)"},
    }
    parallel = True  # several processes (torchrun) train as one
    splits = True  # and share out the work; else each does all of it

    @property
    def node(self):
        return self.cfg.TRAINER[self.NODE]

    @property
    def class_specific(self):
        """Whether something is learned of each class, by default in contexts (C, M, T, W)."""
        return any(isinstance(part, Prompts) and part.context.dim() == 4 for part in self.model.learned.modules())

    def settings_for_new_classes(self):
        """{key of the node: value} with which what was learned serves other classes too; None if nothing does."""
        return None if self.class_specific else {}

    def build_model(self):
        cfg = self.cfg
        parallel.split(self.splits)
        self.precision = MixedPrecision(self.node.PREC, self.device)
        self.scaler = self.precision.scaler  # the toolbox saves its state with the checkpoints
        clip = load_clip(cfg.MODEL.BACKBONE.NAME).to(self.device)
        clip.memory_budget = memory_budget(cfg.TRAINER.get("MEMORY_BUDGET", 0), self.device)
        if self.device.type == "cpu":
            clip.memory_budget //= parallel.size()  # processes share the memory
        clip.long_names = cfg.INPUT.get("LONG_NAMES", "stop")
        clip.check_pixels(cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
        names = [name.replace("_", " ") for name in self.dm.dataset.classnames]
        check_names(names)
        self.model = self.make_model(clip, names).to(self.device)
        self.text, self.predicted, self.kept = None, defaultdict(list), {}
        if list(self.model.learned.parameters()):
            self.optim = build_optimizer(self.model.learned, cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
            self.register_model("prompt_learner", self.model.learned, self.optim, self.sched)

    def make_model(self, clip, names):
        raise NotImplementedError

    def shared_prompts(self, clip, names, n_prompts=1):
        """Prompts as CoOp's are: contexts shared by the classes, of the node's N_CTX and CTX_INIT, and full stops."""
        return Prompts(clip, with_stops(names), start_contexts(clip, n_prompts, self.node.N_CTX, self.node.CTX_INIT))

    def losses(self, match, targets, text):
        return {"ce": F.cross_entropy(self.scores(match), targets)}

    def scores(self, match):
        return self.model.logit_scale * match.g.float().mean(dim=-1)

    def branches(self, match):
        return {}

    def probabilities(self, match):
        """{"combined": (B, C), and those of each branch alone} of the classes."""
        scores = {"combined": self.scores(match), **self.branches(match)}
        return {name: values.float().softmax(dim=1) for name, values in scores.items()}

    def forward_backward(self, batch):
        images, targets = self.parse_batch_train(batch)[:2]
        with self.precision.autocast():
            text = self.model.encode_text()
            match = self.model.match(self.features(images), text)
            losses = self.losses(match, targets, text)
        self.step(losses)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        with torch.no_grad():
            accuracy = compute_accuracy(self.scores(match), targets)[0].item()
        terms = {f"loss_{name}": loss.item() for name, loss in losses.items()} if len(losses) > 1 else {}
        return {"loss": sum(losses.values()).item(), **terms, "acc": accuracy}

    def step(self, losses):
        """One step of the optimizer down the sum of the losses."""
        loss = sum(losses.values())
        self.detect_anomaly(loss, losses)
        self.detect_anomaly(self.precision.backward(loss, self.optim), what="A gradient")
        self.precision.step(self.optim)

    def before_train(self):
        super().before_train()
        if self.cfg.INPUT.get("CACHE_VIEWS"):
            self.train_loader_x = self.encoded_views(self.cfg.INPUT.CACHE_VIEWS)

    def encoded_views(self, n_views):
        """The training batches as features of so many views of each image, or the loader as it is."""
        loader = self.train_loader_x
        sampler = loader.sampler.sampler if isinstance(loader.sampler, EpochSeeds) else loader.sampler
        batches = BatchSampler(sampler, loader.batch_size, loader.drop_last)
        views = self.loader_of(loader.dataset.data_source * n_views, loader.dataset.transform)
        views.dataset.is_train = True  # crops of images that are decoded smaller are as in training
        kept = self.keep(views, partial(EncodedViews, batches, n_views), seed=max(self.cfg.SEED, 0))
        if kept is views:
            print("INPUT.CACHE_VIEWS is not used: images are read and encoded at each step", file=sys.stderr)
            return loader
        return kept

    def batches_to_evaluate(self, split):
        return self.encoded(super().batches_to_evaluate(split))

    def encoded(self, loader):
        """A test's loader, or the features of its images where they can be kept."""
        key = loader, self.model.local
        if key not in self.kept:  # files' names hash all weights, too long for each epoch that ends in a validation
            self.kept[key] = self.keep(loader, EncodedImages)
        return self.kept[key]

    def keep(self, loader, kind, **arguments):
        """The features of a loader's images in INPUT.FEATURE_CACHE, as a kind of EncodedImages, or the loader.

        Kept are none that change in training, or with DATALOADER.ON_ERROR "skip", which may leave images out, or
        without room.
        """
        cfg, folder = self.cfg, self.cfg.INPUT.get("FEATURE_CACHE")  # which other toolboxes don't know
        if not folder or not self.model.frozen_images or cfg.DATALOADER.ON_ERROR == "skip":
            return loader
        try:
            with self.precision.autocast():
                return kind(loader, self.model, folder, self.precision.enabled, cfg.INPUT.FEATURE_STREAMS, **arguments)
        except OSError as error:
            print(f"features are not kept in {folder}: {error}", file=sys.stderr)
            return loader

    def parse_batch_train(self, batch):
        return self.parse_batch_test(batch) if "features" in batch else super().parse_batch_train(batch)

    def parse_batch_test(self, batch):
        """A batch's images, or their features, and its labels on the device."""
        if "features" not in batch:
            return super().parse_batch_test(batch)
        features = (None if part is None else part.to(self.device).float() for part in batch["features"])
        return tuple(features), batch["label"].to(self.device)

    def match(self, input):
        """What the model makes of images, or of their features, and `self.text`."""
        return self.model.match(self.features(input), self.text)

    def features(self, input):
        """Features of images, of which each process encodes its share; features themselves (a tuple) as they are."""
        if isinstance(input, tuple):
            return input
        n_images, (start, stop) = len(input), parallel.share(len(input))
        own = self.model.features(input[start:stop] if start < stop else input[:1])
        return tuple(x if x is None else parallel.gather(x[: stop - start], n_images) for x in own)

    def loader_of(self, items, transform=None):
        """The loader of a list of Datum as in a test, in their order; `transform` instead of the test's."""
        return build_data_loader(
            self.cfg,
            data_source=items,
            batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            tfm=transform or self.test_loader.dataset.transform,
            is_train=False,
        )

    @torch.no_grad()
    def encode_images(self, batches):
        """Image features (n, D), not normalised, and labels (n,) of batches as the test has them."""
        features, labels = [], []
        for batch in batches:
            input, label = self.parse_batch_test(batch)
            with self.precision.autocast():
                class_token, _ = self.features(input)
            features.append(class_token.float() @ self.model.clip.visual.proj)
            labels.append(label)
        return torch.cat(features), torch.cat(labels)

    def model_inference(self, input):
        with self.precision.autocast():
            match = self.match(input)
        for name, scores in self.branches(match).items():
            self.predicted[name] += scores.argmax(dim=1).tolist()
        return self.scores(match)

    @torch.no_grad()
    def test(self, split=None):
        """Accuracy of the prediction; those of its branches alone are printed and join the results."""
        self.predicted.clear()
        self.results = {}
        self.set_model_mode("eval")
        with self.precision.autocast():
            self.text = self.model.encode_text()  # once for all images
        accuracy = super().test(split)
        self.text = None
        truth = self.evaluator._y_true
        for branch, predicted in self.predicted.items():
            alone = 100.0 * sum(a == b for a, b in zip(predicted, truth, strict=True)) / len(truth)
            print(f"* {branch} branch alone: {alone:.2f}%")
            self.results[f"accuracy_{branch}"] = alone
        if self.precision.skipped:
            self.results["skipped_steps"] = self.precision.skipped
        return accuracy

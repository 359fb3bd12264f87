"""What the trainers on a frozen CLIP share: its loading, the training step, the test.

Letters: B images of a batch, n images, C classes, M prompts of a class, T context tokens, W text width, D joint
dimension.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.data.data_manager import build_data_loader
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from sotglp import parallel
from sotglp.backbones import load_clip
from sotglp.interface import Backbone, ImageFeatures
from sotglp.matching import Matched
from sotglp.memory import memory_budget
from sotglp.precision import MixedPrecision
from sotglp.prompted import PromptedCLIP
from sotglp.prompts import Prompts, check_names, draw_prompts, encode_names, start_contexts
from sotglp.scores import image_cosines
from sotglp.templates import template_of
from sotglp.toolbox.kept import KeptFeatures
from sotglp.toolbox.ood import ScoredImages
from sotglp.toolbox.upstream import ignore


class CLIPTrainer(ScoredImages, KeptFeatures):
    """A frozen CLIP with something learned beside it.

    A method sets NODE, DEFAULTS and RANGES, and writes ``make_model``. By default it predicts from the images' cosines
    with the prompts, and learns by their cross-entropy. Another method overrides ``losses``, ``scores``, ``branches``
    or ``probabilities``. They take ``match``, what the model's ``match`` returns for a batch of images.

    Attributes:
        NODE: the method's node of the configuration, under TRAINER.
        DEFAULTS: {key: value} of the node.
        RANGES: {key: interval} of the node's numbers, such as "[0, inf)".
        TEMPLATES: {data set: hand-written template} where the method has its own.
        BACKBONE: kind of backbone that the method works with: Backbone, or CLIP if it reaches inside the towers.
        LR_MIN: where a cosine over all steps ends; None: OPTIM's schedule, which changes with the epochs.
        parallel: whether several processes (torchrun) can train as one.
        splits: whether these processes share out the work; otherwise each does all of it.
    """

    NODE = ""
    DEFAULTS: dict[str, Any] = {}
    RANGES: dict[str, str] = {}
    TEMPLATES: dict[str, str] = {}
    BACKBONE: type[Backbone] = Backbone
    LR_MIN: float | None = None
    parallel = True
    splits = True

    @classmethod
    def extend_cfg(cls, cfg: CfgNode) -> None:
        """Add the method's node, TRAINER.<NODE>, to a configuration."""
        cfg.TRAINER[cls.NODE] = CfgNode(dict(cls.DEFAULTS))

    @property
    def node(self) -> CfgNode:
        """The method's node of the run's configuration."""
        return self.cfg.TRAINER[self.NODE]

    @property
    def class_specific(self) -> bool:
        """Whether something is learned of each class, by default in contexts (C, M, T, W)."""
        return any(isinstance(part, Prompts) and part.context.dim() == 4 for part in self.model.learned.modules())

    def settings_for_new_classes(self) -> dict[str, Any] | None:
        """Return {key of the node: value} to change so that a trained run predicts other classes; None if it cannot."""
        return None if self.class_specific else {}

    def build_model(self) -> None:
        """Load CLIP, and build the model, its optimizer and its schedule."""
        cfg = self.cfg
        parallel.split(self.splits)
        self.precision = MixedPrecision(self.node.PREC, self.device)
        self.scaler = self.precision.scaler  # the toolbox saves its state with the checkpoints
        keeps = bool(cfg.INPUT.get("FEATURE_CACHE")) and self.test_loader is not None  # features may be there already
        clip = load_clip(cfg.MODEL.BACKBONE.NAME, images=not keeps).to(self.device)
        if not isinstance(clip, self.BACKBONE):
            raise ValueError(
                f"{cfg.TRAINER.NAME} reaches inside the towers, which must be of OpenAI's architecture, as those of "
                f"ViT-B/16 are: {cfg.MODEL.BACKBONE.NAME} is of another one"
            )
        clip.memory_budget = memory_budget(cfg.TRAINER.get("MEMORY_BUDGET", 0), self.device)
        if self.device.type == "cpu":
            clip.memory_budget //= parallel.size()  # processes share the memory
        clip.long_names = cfg.INPUT.get("LONG_NAMES", "stop")
        clip.check_pixels(cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
        names = [name.replace("_", " ") for name in self.dm.dataset.classnames]
        check_names(names)
        self.model = self.make_model(clip, names).to(self.device)
        self.text: Any = None
        self.predicted: dict[str, list[int]] = defaultdict(list)
        self.kept: dict[Any, Any] = {}
        if list(self.model.learned.parameters()):
            self.optim = build_optimizer(self.model.learned, cfg.OPTIM)
            self.sched = self.build_schedule()
            self.register_model("prompt_learner", self.model.learned, self.optim, self.sched)

    def backbone_file(self) -> Path | None:
        return self.model.clip.weights_file

    def build_schedule(self) -> LRScheduler:
        """Return the schedule of the learning rate."""
        if self.LR_MIN is None:
            optim = self.cfg.OPTIM.clone()
            optim.defrost()
            optim.MAX_EPOCH = self.schedule_epochs
            return build_lr_scheduler(self.optim, optim)
        batches, last = len(self.train_loader_x or [None]), self.LR_MIN / self.cfg.OPTIM.LR

        def factor(step: int) -> float:
            share = step / (batches * self.schedule_epochs)
            return last + (1 - last) * (1 + math.cos(math.pi * share)) / 2

        return LambdaLR(self.optim, factor)

    @property
    def schedule_epochs(self) -> int:
        """Number of epochs that the schedule is made for: all, or those of a stage."""
        return int(self.cfg.OPTIM.MAX_EPOCH)

    def before_train(self) -> None:
        super().before_train()
        self.choose_stage(self.start_epoch)

    def after_epoch(self) -> None:
        super().after_epoch()
        self.choose_stage(self.epoch + 1)

    def choose_stage(self, epoch: int) -> None:
        """Prepare the epochs from this one on: for methods that train in stages. By default there is one."""

    def restart_schedule(self) -> None:
        """Let the schedule of the learning rate begin anew."""
        self.sched = self._scheds["prompt_learner"] = self.build_schedule()

    def make_model(self, clip: Backbone, names: Sequence[str]) -> PromptedCLIP:
        """Return the model of the C class names, of which ``learned`` is trained and saved."""
        raise NotImplementedError

    def shared_prompts(
        self, clip: Backbone, names: Sequence[str], n_prompts: int = 1, template: str = "{}."
    ) -> Prompts:
        """Return CoOp's prompts: contexts that classes share, by the node's N_CTX and CTX_INIT, and full stops."""
        context = start_contexts(clip, n_prompts, self.node.N_CTX, self.node.CTX_INIT)
        return Prompts(clip, names, context, template)

    def zero_shot_text(self, clip: Backbone, names: Sequence[str]) -> torch.Tensor:
        """Return the normalised text features (C, D) of class names in the hand-written templates."""
        return encode_names(clip, names, self.templates)

    @property
    def templates(self) -> Sequence[str]:
        """The hand-written templates whose text features are averaged; by default the data set's only one."""
        dataset = self.cfg.DATASET.NAME
        return [self.TEMPLATES.get(dataset, template_of(dataset))]

    @cached_property
    def validates(self) -> bool:
        """Whether there are validation images to choose constants on: ImageNet's are those of the test."""
        dataset = self.dm.dataset
        return bool(dataset.val) and {x.impath for x in dataset.val}.isdisjoint(x.impath for x in dataset.test)

    def draw(self, n_images: int) -> torch.Tensor:
        """Draw the global prompts (B, kept) that count for each image, by the node's prompt dropout."""
        return draw_prompts(n_images, self.node.N_GLOBAL, self.node.PROMPT_DROPOUT, self.device)

    def losses(self, match: Matched, targets: torch.Tensor, text: Any) -> dict[str, torch.Tensor]:
        """Return {name: term} of the loss, which is their sum; the cross-entropy of the scores by default.

        Args:
            match: of the batch.
            targets: labels (B,).
            text: what the model's ``encode_text`` returned.
        """
        return {"ce": F.cross_entropy(self.scores(match), targets)}

    def scores(self, match: Matched) -> torch.Tensor:
        """Return scores (B, C), the largest of which is predicted; the scaled cosines of the images by default."""
        return self.model.logit_scale * image_cosines(match)

    def branches(self, match: Matched) -> dict[str, torch.Tensor]:
        """Return {name: scores (B, C)} of the branches whose own accuracies are reported, too; none by default."""
        return {}

    def probabilities(self, match: Matched) -> dict[str, torch.Tensor]:
        """Return class probabilities (B, C) by name: "combined", and those of each branch alone.

        By default they are the softmax of the scores.
        """
        scores = {"combined": self.scores(match), **self.branches(match)}
        return {name: values.float().softmax(dim=1) for name, values in scores.items()}

    def forward_backward(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Take one training step; return the loss, its terms if there are several, and the accuracy in percent."""
        images, targets = self.parse_batch_train(batch)[:2]
        with self.precision.autocast():
            text = self.model.encode_text()
            match = self.model.match(self.features(images), text)
            losses = self.losses(match, targets, text)
        self.step(losses)
        if self.LR_MIN is not None or self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        with torch.no_grad():
            accuracy = compute_accuracy(self.scores(match), targets)[0].item()
        terms = {f"loss_{name}": loss.item() for name, loss in losses.items()} if len(losses) > 1 else {}
        return {"loss": total(losses).item(), **terms, "acc": accuracy}

    def step(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Take one step of the optimizer down the sum of the losses."""
        loss = total(losses)
        self.detect_anomaly(loss, losses)
        self.detect_anomaly(self.precision.backward(loss, self.optim), what="A gradient")
        self.precision.step(self.optim)

    def match(self, input: torch.Tensor | ImageFeatures) -> Matched:
        """Match images, or their features, with ``self.text``."""
        return self.model.match(self.features(input), self.text)

    def features(self, input: torch.Tensor | ImageFeatures) -> ImageFeatures:
        """Return the features of images, of which each process encodes its share; features (a tuple) as they are."""
        if isinstance(input, tuple):
            return input
        n_images, (start, stop) = len(input), parallel.share(len(input))
        class_token, patches = self.model.features(input[start:stop] if start < stop else input[:1])
        gather = partial(parallel.gather, n=n_images)
        own = slice(stop - start)  # nothing, if an image was encoded only to have features of the right shape
        return gather(class_token[own]), None if patches is None else gather(patches[own])

    def loader_of(self, items: Sequence[Any], transform: Any = None) -> Any:
        """Return a test loader of a list of Datum, in their order.

        Args:
            items: the images.
            transform: used instead of the test's.
        """
        return build_data_loader(
            self.cfg,
            data_source=items,
            batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            tfm=transform or self.test_loader.dataset.transform,
            is_train=False,
        )

    def encode_images(self, batches: Iterable[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image features (n, D), not normalised, and labels (n,) of a test's batches."""
        tokens, labels = self.class_tokens(batches)
        return self.model.clip.visual.to_joint(tokens), labels

    @torch.no_grad()
    def class_tokens(self, batches: Iterable[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class tokens (n, W) and labels (n,) of a test's batches."""
        tokens, labels = [], []
        with self.precision.autocast(), self.spending("encoding"):
            for batch in tqdm(batches, desc="encode", leave=False, disable=None):
                input, label = self.parse_batch_test(batch)
                tokens.append(self.features(input)[0].float())
                labels.append(label)
        return torch.cat(tokens), torch.cat(labels)

    def model_inference(self, input: torch.Tensor | ImageFeatures, **unknown: Any) -> torch.Tensor:
        ignore(unknown, "model_inference")
        with self.precision.autocast():
            match = self.match(input)
        for name, scores in self.branches(match).items():
            self.predicted[name] += scores.argmax(dim=1).tolist()
        return self.scores(match)

    @torch.no_grad()
    def validation_probabilities(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return class probabilities (n, C) and labels (n,) of the validation images; None without them."""
        if not self.validates:
            return None
        found, labels = [], []
        for batch in tqdm(self.batches_to_evaluate("val"), desc="val", leave=False, disable=None):
            input, label = self.parse_batch_test(batch)
            with self.precision.autocast():
                found.append(self.probabilities(self.match(input))["combined"].float().cpu())
            labels.append(label.cpu())
        return torch.cat(found).numpy(), torch.cat(labels).numpy()

    @torch.no_grad()
    def test(self, split: str | None = None, **unknown: Any) -> float:
        """Return the accuracy in percent; those of the branches alone are printed and added to the results."""
        ignore(unknown, "test")
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


def total(losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of the terms of a loss."""
    return reduce(operator.add, losses.values())

"""Methods that adapt towers or features: CLIP-LoRA, 2SFS, Tip-Adapter and Tip-Adapter-F."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scripts.conformance.published import Published
from scripts.conformance.trainers import batch_of, quiet
from sotglp.prompts import tokenize
from sotglp.templates import DEFAULT


class RecordedDropout(nn.Module):
    """Recorded masks in the place of a dropout.

    Args:
        masks: list of what is kept (L, B, W) in each step.
        share: that is left out.
        eot: (B,) the only positions that are read of the text tower's last block; None elsewhere.
        trainer: OnReference, which counts the steps.
    """

    def __init__(self, masks, share, eot, trainer):
        super().__init__()
        self.masks, self.share, self.eot = masks, share, eot
        self.step = lambda: min(len(trainer.recorded), len(masks) - 1)

    def forward(self, x):
        if not self.training:
            return x
        mask = self.masks[self.step()].transpose(0, 1)
        if self.eot is not None and x.shape[1] == 1:
            mask = mask[torch.arange(len(x)), self.eot][:, None]
        return x * mask[:, : x.shape[1]] / (1 - self.share)


class CLIPLoRA(Published):
    """Low-rank matrices beside the attention.

    rate0/ holds the authors' run with dropout 0, whose gradient lacks a part: it is not compared.
    """

    trainer = "CLIPLoRA"
    renamed = {"r": "RANK", "alpha": "ALPHA", "dropout_rate": "DROPOUT"}
    without_effect = (
        "params",
        "encoder",
        "position",
        "backbone",
        "lr",
        "n_iters",
        "shots",
        "weight_decay",
        "betas",
        "eta_min",
    )
    inputs = (*Published.inputs, "dropout/", "rate0/")

    @property
    def ways(self):
        """The recorded masks are of all prompts at once."""
        return ("mixed precision",) if self.file.under("dropout/") else ("prompts in parts", "mixed precision")

    def settings(self):
        theirs, values = self.file.settings, super().settings()
        steps = theirs["n_iters"] * theirs["shots"]
        values |= {"OPTIM.NAME": "adamw", "OPTIM.LR": theirs["lr"], "OPTIM.WEIGHT_DECAY": theirs["weight_decay"]}
        values |= {"OPTIM.MAX_EPOCH": steps, "TRAINER.CLIPLORA.LOGIT_SCALE": float(self.file.meta["logit_scale"])}
        if not self.file.under("dropout/"):
            values["TRAINER.CLIPLORA.DROPOUT"] = 0.0
        return values

    def build(self, folder, **settings):
        trainer = super().build(folder, **settings)
        eot = trainer.model.ids.argmax(dim=1)
        for name, shape in self.file.meta.get("dropout_shapes", {}).items():
            masks = [self.file[f"dropout/step{step}/{name}"] for step in range(len(self.file["steps/losses"]))]
            masks = [torch.from_numpy(np.unpackbits(mask)[: np.prod(shape)].reshape(shape)) for mask in masks]
            recorded = RecordedDropout(
                masks, trainer.node.DROPOUT, None if name.startswith("visual.") else eot, trainer
            )
            self.map_of(trainer.model.learned, f"{name}.")[0] = recorded
        return trainer

    def map_of(self, learned, name):
        """Return the low-rank map of a published name; those of the image tower come first."""
        *tower, _, _, block, _, projection, _ = name.split(".")
        return learned[int(block) + (0 if tower else self.image_blocks)][projection[0]]

    def place(self, learned, name):
        return self.map_of(learned, name)[1 if name.endswith("A") else 2].weight

    def texts(self, trainer, text):
        return {"text_features": text[:, 0]}

    def matched(self, trainer, features, text, match):
        model, images = trainer.model, trainer.batch["img"]
        model.learned.train()
        values = {"train_logits": trainer.scores(model(images))}
        model.learned.eval()
        learned = copy.deepcopy(model.learned.state_dict())
        for name, parameter in model.learned.named_parameters():
            parameter.mul_(0.0 if name.endswith("2.weight") else 1.0)  # B: no gain is left
        text = model.encode_text()
        plain = model.features(images)
        zero_shot = {"text_features": text[:, 0], "logits": trainer.scores(model.match(plain, text))}
        zero_shot["image_features"] = model.to_joint(plain[0])
        model.learned.load_state_dict(learned)
        return values | {f"zero_shot/{name}": value for name, value in zero_shot.items()}


class TwoSFS(Published):
    """Norms of the towers, then a classifier."""

    trainer = "TwoSFS"
    ways = ("prompts in parts", "mixed precision")

    def settings(self):
        theirs = self.file.settings
        optim = {
            **{"NAME": theirs["optimizer"].lower(), "LR": theirs["lr"], "WEIGHT_DECAY": theirs["wd"]},
            **{"MAX_EPOCH": theirs["n_iters"] * theirs["shots"]},
        }
        starts = {"IMAGE_START": theirs["ln_vision_start"], "TEXT_START": theirs["ln_text_start"]}
        node = {"SHARE": theirs["n_iters_frac"], **starts}
        return {
            **{f"OPTIM.{key}": value for key, value in optim.items()},
            **{f"TRAINER.TWOSFS.{key}": value for key, value in node.items()},
        }

    def place(self, learned, name):
        *tower, _, _, block, norm, kind = name.split(".")
        image_start, text_start = (self.settings()[f"TRAINER.TWOSFS.{key}_START"] for key in ("IMAGE", "TEXT"))
        index = int(block) - image_start if tower else self.image_blocks - image_start + int(block) - text_start
        return learned.norms[2 * index + (norm == "ln_2")].get_parameter(kind)

    def observe(self, trainer):
        return {"classifier": trainer.model.learned.classifier.detach().clone()}

    def texts(self, trainer, text):
        return {"text_features": text[:, 0]}

    def compute(self, **settings):
        first = len(self.file["steps/losses"])
        with tempfile.TemporaryDirectory() as folder, quiet():
            trainer = self.build(Path(folder), **settings)
            learned = trainer.model.learned
            values = self.evaluated(trainer)
            trainer.max_epoch = first + len(self.file["stage2/losses"])
            trainer.train()
            steps, end = trainer.recorded, copy.deepcopy(learned.state_dict())
            later = self.of_steps(steps[first:])
            values |= {**self.of_steps(steps[:first]), **{f"final/{name}": v for name, v in self.read(learned).items()}}
            values |= {f"stage2/{name}": later[f"steps/{name}"] for name in ("losses", "lr")}
            values["stage2/init_classifier"] = steps[first]["classifier"]
            values["stage2/grad_classifier"] = steps[first]["gradients"].classifier
            values["stage2/final_classifier"] = learned.classifier.detach().clone()
            values["final/logits"] = self.evaluated(trainer)["logits"]
            values |= {f"final/{name}": logits for name, logits in self.of_other_classes(trainer).items()}
            learned.load_state_dict({**end, "classifier": steps[first]["classifier"]})
            values["stage2/train_logits"] = self.evaluated(trainer)["logits"]
            learned.second.fill_(False)
            return values | {f"stage2/init_{name}": value for name, value in self.evaluated(trainer).items()}

    @torch.no_grad()
    def of_other_classes(self, trainer):
        """Return {name: logits} of classes that were not trained, alone and before the trained ones."""
        model, names = trainer.model, self.file.meta["novel_names"]
        if not names:
            return {}
        trained, ids = model.encode_text(), model.ids
        model.learned.second.fill_(False)
        model.ids = tokenize(model.clip, names, [DEFAULT])
        novel, model.ids = model.encode_text(), ids
        model.learned.second.fill_(True)
        features = trainer.features(self.input(trainer))
        texts = {"logits_novel": novel, "logits_all": torch.cat([novel, trained])}
        return {name: trainer.scores(model.match(features, text)) for name, text in texts.items()}


class TipAdapter(Published):
    """Both variants, one after the other. The authors take the best epoch of the second on the test images."""

    trainer = "TipAdapter"
    parameters = {"adapter.weight": lambda learned: learned.keys}
    ways = ()
    inputs = (
        *Published.inputs,
        *("train/", "val/images", "val/labels", "test/images", "test/labels", "F/selected_epoch", "F/selected_weight"),
    )

    def settings(self):
        theirs = self.file.settings
        node = {
            **{"ALPHA": theirs["init_alpha"], "BETA": theirs["init_beta"], "LOGIT_SCALE": theirs["logit scale"]},
            **{"SEARCH_SCALE": theirs["search_scale"], "SEARCH_STEP": theirs["search_step"]},
        }
        return {f"TRAINER.{self.node()}.{key}": value for key, value in node.items()}

    def attributes(self):
        views, labels = self.file["train/images_augmented"], self.file["train/labels"]
        return {"templates": self.file.meta["template"], "views": [batch_of(images, labels) for images in views]}

    def start(self, learned, values):
        """Keys start from the images."""

    def texts(self, trainer, text):
        return {}

    def compute(self, **settings):
        with tempfile.TemporaryDirectory() as folder, quiet():
            plain, learned = (Path(folder, name) for name in ("plain", "learned"))
            return {**self.without_training(plain, settings), **self.with_training(learned, settings)}

    def batch(self, split):
        """Return the batch of "val" or "test"."""
        return batch_of(self.file[f"{split}/images"], self.file[f"{split}/labels"])

    @torch.no_grad()
    def without_training(self, folder, settings):
        """Return {name: value} of Tip-Adapter."""
        self.trainer, epochs = "TipAdapter", len(self.file["train/images_augmented"])
        validation = self.batch("val")
        trainer = self.build(folder, validation_batch=validation, **{"OPTIM.MAX_EPOCH": epochs, **settings})
        trainer.train()
        cache, text = trainer.model.learned, trainer.model.encode_text()
        values = {
            **{"cache/keys": F.normalize(cache.keys, dim=-1).T, "cache/values": cache.values},
            **{"clip_weights": text[:, 0].T, "text_features": text[:, 0]},
            **self.searched(trainer, "search/"),
        }
        for split in ("val", "test"):
            images = trainer.model.to_joint(trainer.features(self.batch(split)["img"])[0])
            zero_shot, cached = trainer.model.logit_scale * images @ text[:, 0].T, cache.affinities(images)
            values[f"{split}/features"], values[f"{split}/zero_shot_logits"] = images, zero_shot
            start = trainer.node.ALPHA * cache.logits(cached, trainer.node.BETA)
            values[f"{split}/logits_init_alpha_beta"] = zero_shot + start
        values["test/logits_searched"] = self.logits(trainer, self.file["test/images"])
        return values

    def logits(self, trainer, images):
        """Return the scores of images, an array."""
        model = trainer.model
        return trainer.scores(model.match(model.features(torch.from_numpy(images)), model.encode_text()))

    def searched(self, trainer, prefix):
        """Return {name: value} of the search on the validation images."""
        accuracy = 100 * trainer.search() / len(self.file["val/labels"])
        found = {"accuracy": accuracy, "alpha": trainer.model.learned.alpha, "beta": trainer.model.learned.beta}
        return {f"{prefix}{name}": value.clone() for name, value in found.items()}

    def with_training(self, folder, settings):
        """Return {name: value} of Tip-Adapter-F."""
        self.trainer, theirs = "TipAdapterF", self.file.settings
        optim = {
            **{"NAME": theirs["optimizer"].lower(), "LR": theirs["lr"], "EPS": theirs["eps"]},
            **{"WEIGHT_DECAY": theirs["weight_decay"], "MAX_EPOCH": theirs["train_epoch"]},
        }
        optim = {f"OPTIM.{key}": value for key, value in optim.items()}
        views = {"TRAINER.TIPADAPTERF.VIEWS": len(self.file["train/images_augmented"])}
        trainer = self.build(folder, **{**optim, **views, **settings})
        keys = trainer.model.learned.keys.data
        keys.copy_(torch.from_numpy(self.file["init/adapter.weight"]))
        values = self.evaluated(trainer)
        keys.zero_()  # the training sums the views
        self.train(trainer)
        values |= {**self.of_steps(trainer.recorded), **self.at_end(trainer)}
        with torch.no_grad():
            values["final/test_logits"] = self.logits(trainer, self.file["test/images"])
            keys.copy_(torch.from_numpy(self.file["F/selected_weight"]))
            trainer.val_loader = [self.batch("val")]
            values |= self.searched(trainer, "F/search_")
            values["F/test_logits_searched"] = self.logits(trainer, self.file["test/images"])
        return values

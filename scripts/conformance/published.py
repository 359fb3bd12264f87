"""What a file of a prompt-learning method holds, and how our trainer computes it."""

import tempfile
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY
from scripts.conformance.rows import compare
from scripts.conformance.trainers import batch_of, build, quiet
from sotglp.clip import count_children
from sotglp.prompts import Prompts


class Published:
    """One method's file. A method sets what differs.

    Args:
        file: ReferenceFile.
        kept: whether features of the images are kept.

    Attributes:
        trainer: name of our trainer.
        parameters: {published name: function (learned module) -> the tensor, or a list of tensors to be stacked}.
        without_effect: published hyper-parameters that change nothing, or are fixed in both codes.
        renamed: {published hyper-parameter: key of our trainer's node} where the names differ.
        inputs: beginnings of the names that are not computed.
        terms: {our term of the loss: published name} where the names differ.
        ways: other ways to compute that change something.
        stopped_early: quantities that the reference does not compute to the end, and what is allowed of them.
    """

    trainer = ""
    parameters = {}
    without_effect = ()
    renamed = {}
    inputs = ("images", "targets", "init/", "clip/", "logit_scale", "published_init/", "meta")
    terms = {}
    stopped_early = {}
    ways = ("prompts in parts", "kept features", "mixed precision")

    def __init__(self, file, kept=False):
        self.file, self.kept = file, kept

    def compare(self, values, factor=1):
        """Return (Rows of what the file holds, names of what is not computed).

        Args:
            values: {name: value} of ``compute``.
            factor: by which tolerances are looser.
        """
        rows, unknown = [], []
        noise = self.file.meta.get("sensitivity_to_relative_1e_6_noise_on_init", {})
        for name, reference in self.file.arrays.items():
            if name.startswith(self.inputs):
                continue
            if name not in values:
                unknown.append(name)
                continue
            part, _, parameter = name.rpartition("final/") if "final/" in name else name.partition("last/")
            starts = (self.file.arrays.get(f"{place}init/{parameter}") for place in (part, ""))
            start = next((array for array in starts if array is not None), None)
            ours = torch.as_tensor(values[name]).detach().cpu()
            allowed = self.stopped_early.get(name)
            rows.append(compare(name, ours, reference, start, noise.get(name, 0.0), factor, allowed))
        return rows, unknown

    def settings(self):
        """Return {key of the configuration: value} of the file's hyper-parameters.

        Raises:
            ValueError: our trainer has no such setting.
        """
        node, values = self.node(), dict(self.file.optim)
        for key, value in self.file.settings.items():
            name = self.renamed.get(key, key.split(".")[-1])
            if key in values or key in self.without_effect or key.partition(" ")[0] in ("seed", "meta"):
                continue
            values[f"TRAINER.{node}.{name}"] = value
        return values

    def node(self):
        """Return the trainer's node of the configuration, under TRAINER."""
        return TRAINER_REGISTRY.get(self.trainer).NODE

    def build(self, folder, validation_batch=None, **settings):
        """Return our trainer with the file's start values.

        Args:
            folder: for its files.
            validation_batch: batch of validation images, for a method that looks at them.
            settings: {key: value} beside the file's.
        """
        attributes = {"batch": self.training_batch(), **self.attributes()}
        attributes |= {"kept": self.kept, "observe": staticmethod(self.observe), "validation_batch": validation_batch}
        trainer = build(self.file, self.clip(), self.trainer, {**self.settings(), **settings}, folder, **attributes)
        self.start(trainer.model.learned, self.file.under("init/"))
        return trainer

    def clip(self):
        """Return the state dict of the CLIP, in OpenAI's format."""
        return self.file.clip()

    @cached_property
    def image_blocks(self):
        """Number of blocks of the image tower; to count them anew for every parameter takes seconds."""
        return count_children(self.file.clip(), "visual.transformer.resblocks.")

    def training_batch(self):
        """Return the batch of each step."""
        return batch_of(self.file["images"], self.file["targets"])

    def attributes(self):
        """Return further attributes of OnReference."""
        return {}

    def place(self, learned, name):
        """Return the parameter of a published name in the learned module, or a list to be stacked."""
        return self.parameters[name](learned)

    def observe(self, trainer):
        """Return {name: value} of what is recorded before a step, beside loss and learning rate."""
        return {}

    @torch.no_grad()
    def start(self, learned, values):
        """Set parameters to {published name: array}."""
        for name, value in values.items():
            places, value = self.place(learned, name), torch.from_numpy(value)
            if isinstance(places, list):
                for place, part in zip(places, value, strict=True):
                    place.copy_(part)
            else:
                places.copy_(value)

    def read(self, learned):
        """Return {published name: array} of the parameters that the file has."""
        values = {}
        for name in self.file.under("init/"):
            places = self.place(learned, name)
            values[name] = (torch.stack(places) if isinstance(places, list) else places).detach().clone()
        return values

    def compute(self, **settings):
        """Return {name: value} of all that the file holds."""
        with tempfile.TemporaryDirectory() as folder, quiet():
            trainer = self.build(Path(folder), **settings)
            values = self.evaluated(trainer)
            self.train(trainer)
            return {**values, **self.of_steps(trainer.recorded), **self.at_end(trainer)}

    def train(self, trainer, stages=1):
        """Train as many steps as the file holds, which may be fewer than its schedule is made for."""
        trainer.max_epoch = stages * len(self.file["steps/losses"])
        trainer.train()

    def evaluated(self, trainer):
        """Return {name: value} of the start, in evaluation mode and without a gradient, but for the loss."""
        trainer.set_model_mode("eval")
        with torch.no_grad():
            trainer.text = text = trainer.model.encode_text()
            features = trainer.features(self.input(trainer))
            match = trainer.model.match(features, text)
            values = {"logits": trainer.scores(match), **self.images(trainer, features), **self.texts(trainer, text)}
            return values | self.matched(trainer, features, text, match)

    def input(self, trainer):
        """Return the file's images, or their features."""
        return trainer.parse_batch_test(trainer.batch)[0]

    def images(self, trainer, features):
        """Return {name: value} of the images."""
        raw = features[0] @ trainer.model.clip.visual.proj
        return {"image_features_raw": raw, "image_features": F.normalize(raw, dim=-1)}

    def texts(self, trainer, text):
        """Return {name: value} of the learned text."""
        prompts = next(part for part in trainer.model.learned.modules() if isinstance(part, Prompts))
        return {"text_features": text[:, 0], "token_ids": self.token_ids(prompts)}

    def token_ids(self, prompts, number=0):
        """Return the BPE ids (C, L) of prompts, with the file's in the context's places, which it puts after the SOT.

        Args:
            prompts: with one or several prompts of a class.
            number: of the prompt in the file.
        """
        ids = torch.from_numpy(self.file["token_ids"]).long().split(len(prompts.ids))[number].clone()
        length = prompts.context.shape[-2]
        for row, own, slots in zip(ids, prompts.ids, prompts.slots, strict=True):
            row[1 + length :] = 0
            own = own[slots < 0][1:]
            row[1 + length : 1 + length + len(own)] = own
        return ids

    def matched(self, trainer, features, text, match):
        """Return {name: value} of what the method computes beside logits."""
        return {}

    def losses(self, terms):
        """Return {name: value} of a loss, of our terms."""
        named = {self.terms.get(name, name): value for name, value in terms.items()}
        return {**named, "total": sum(terms.values())}

    def columns(self):
        """Return the names of the columns of steps/losses."""
        names = self.file.meta.get("steps_columns") or self.file.meta.get("loss_terms") or ["total"]
        return [name.split()[0] for name in names]

    def of_steps(self, steps):
        """Return {name: value} of recorded steps."""
        losses = [self.losses(step["terms"]) for step in steps]
        values = {f"loss/{name}": value for name, value in losses[0].items()}
        values["steps/losses"] = [[loss[name] for name in self.columns()] for loss in losses]
        values["steps/lr"] = [step["lr"] for step in steps]
        return values | {f"grad/{name}": value for name, value in self.read(steps[0]["gradients"]).items()}

    def at_end(self, trainer):
        """Return {name: value} of the trained model."""
        values = {**self.read(trainer.model.learned), **self.evaluated(trainer)}
        return {f"final/{name}": value for name, value in values.items()}

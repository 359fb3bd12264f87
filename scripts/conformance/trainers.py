"""Our trainers on the CLIP, the images and the settings of a file of reference numbers."""

import contextlib
import copy
import io
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

import trainers  # noqa: F401 (registers them)
from dassl.config import compose
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from sotglp.interface import PIXEL_MEAN, PIXEL_STD


class OnReference:
    """Takes the place of a trainer's data, and records its steps.

    Attributes:
        file: the ReferenceFile.
        batch: the training batch of each epoch.
        draws: prompts that count for the images of each step, instead of random ones.
        views: batches of augmented views of the training images; one at a time takes the place of a loader of them.
        validation_batch: of the validation images; None without any.
        observe: function (trainer) -> {name: value} of what else to record before a step; a static method.
        kept: whether the images' features are kept, if they do not change.
        recorded: list of {name: value} of the steps.
    """

    draws, views, validation_batch, kept = (), (), None, False

    def build_data_loader(self):
        self.batch = {name: self.on_device(value) for name, value in self.batch.items()}
        names, labels = self.file.meta["class_names"], self.batch["label"].tolist()
        items = [Datum(str(i), label, classname=names[label]) for i, label in enumerate(labels)]
        validation = [Datum("val", 0)] if self.validation_batch else []
        self.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=names, train_x=items, val=validation, test=[]))
        self.lab2cname, self.num_classes, self.recorded = dict(enumerate(names)), len(names), []
        self.train_loader_x, self.test_loader = Batches([self.batch]), None
        self.val_loader = self.validation_batch and Batches([self.validation_batch])

    def build_model(self):
        super().build_model()
        if self.kept and self.model.frozen_images and "img" in self.batch:
            self.batch |= {"features": self.model.features(self.batch["img"])}

    def on_device(self, value):
        """Return a tensor, or several or None in a tuple, on the trainer's device."""
        if isinstance(value, tuple):
            return tuple(map(self.on_device, value))
        return None if value is None else value.to(self.device)

    def loader_of(self, items, transform=None):
        return Batches([self.views.pop(0)])

    def encoded(self, loader):
        return loader

    def draw(self, n_images):
        """Return the step's recorded draw, whose shape must be that of our own."""
        own, draw = super().draw(n_images), self.draws[len(self.recorded)]
        return draw.to(own.device) if draw.shape == own.shape else own

    def forward_backward(self, batch):
        step = {"lr": self.get_current_lr(), **self.observe(self)}
        summary = super().forward_backward(batch)
        terms = {name.removeprefix("loss_"): value for name, value in summary.items() if name.startswith("loss_")}
        step |= {"terms": terms or {"ce": summary["loss"]}, "gradients": gradients(self.model.learned)}
        self.recorded.append({**step, "learned": copy.deepcopy(self.model.learned)})
        return summary


class Batches(list):
    """A loader of fixed batches."""

    dataset = SimpleNamespace(transform=None)


def gradients(learned):
    """Return a copy of a module that holds the gradients in the places of the parameters; 0 without one."""
    twin = copy.deepcopy(learned).requires_grad_(False)
    for place, parameter in zip(twin.parameters(), learned.parameters(), strict=True):
        place.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return twin


def batch_of(images, labels):
    """Return a batch of a loader, of arrays."""
    labels = torch.as_tensor(labels).long()
    return {"img": torch.as_tensor(images).float(), "label": labels, "domain": torch.zeros_like(labels)}


def features_of(features, labels):
    """Return a batch of features, of arrays, in the place of images."""
    return {"features": (torch.as_tensor(features).float(), None), "label": torch.as_tensor(labels).long()}


def build(file, state, name, settings, folder, **attributes):
    """Return the trainer of a name on a CLIP.

    Args:
        file: ReferenceFile, which names data set and classes.
        state: the CLIP's state dict, in OpenAI's format.
        name: of a registered trainer.
        settings: {key of the configuration: value}.
        folder: for the weights and the output.
        attributes: of OnReference.

    Raises:
        UserError: a setting is impossible.
    """
    state = {key: torch.as_tensor(value).contiguous() for key, value in state.items()}
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "clip.safetensors")
    size = len(state["visual.positional_embedding"]) - 1
    side = round(size**0.5) * state["visual.conv1.weight"].shape[-1]
    values = {
        **{"TRAINER.NAME": name, "DATASET.NAME": file.dataset, "MODEL.BACKBONE.NAME": f"{folder}/clip.safetensors"},
        **{"INPUT.SIZE": (side, side), "INPUT.PIXEL_MEAN": list(PIXEL_MEAN), "INPUT.PIXEL_STD": list(PIXEL_STD)},
        **{"OUTPUT_DIR": str(folder / "output"), "TEST.NO_TEST": True, "TRAINER.MEMORY_BUDGET": 0, **settings},
    }
    kind = TRAINER_REGISTRY.get(name)
    with quiet():
        return type(name, (OnReference, kind), {"file": file, **attributes})(compose((), values))


def quiet():
    """Return a context that hides what trainers print."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack

"""Methods that learn a classifier on image features: GDA, CLAP, LP++. Their files hold features, and no CLIP."""

import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from scripts.conformance.published import Published
from scripts.conformance.trainers import features_of, quiet
from sotglp.clip import CLIP
from sotglp.toolbox.adapter import class_means
from trainers.gda import shrunk_precision


class OnFeatures(Published):
    """The file's features take the place of our towers'."""

    ways = ("mixed precision",)

    def clip(self):
        """Return the state dict of a CLIP whose class tokens are its image features."""
        joint = self.file["text_features"].shape[1]
        clip = CLIP(joint, 16, 16, joint, 1, 8, 1)
        clip.visual.proj.data = torch.eye(joint)
        clip.logit_scale.data.fill_(self.file.settings.get("logit_scale", 1.0)).log_()
        return clip.state_dict()

    def attributes(self):
        text = torch.from_numpy(self.file["text_features"])

        def injected(trainer, clip, names):
            return text.to(clip.logit_scale.device)

        return {"zero_shot_text": injected, "raw_text": injected}

    def start(self, learned, values):
        """The start is computed from the features."""

    def texts(self, trainer, text):
        return {}

    def scores(self, trainer, features):
        """Return the scores (B, C) of features, an array."""
        batch = trainer.parse_batch_test(features_of(features, []))
        return trainer.scores(trainer.model.match(batch[0], trainer.model.encode_text()))


class GDA(OnFeatures):
    """Nothing is trained."""

    trainer = "GDA"
    inputs = ("meta", "train/", "text_features", "val/features", "val/labels", "test/features", "test/labels", "alphas")

    def settings(self):
        theirs = self.file.settings
        node = {"VIEWS": theirs["augment_epoch"], "ALPHAS": theirs["alpha_grid"], "LOGIT_SCALE": theirs["logit_scale"]}
        return {f"TRAINER.GDA.{key}": value for key, value in node.items()} | {"OPTIM.MAX_EPOCH": 1}

    def training_batch(self):
        return features_of(self.file["train/features"][0], self.file["train/labels"])

    def attributes(self):
        views, labels = self.file["train/features"], torch.from_numpy(self.file["train/labels"])
        views = features_of(views.reshape(-1, views.shape[-1]), labels.repeat(len(views)))
        return {**super().attributes(), "views": [views]}

    @torch.no_grad()
    def compute(self, **settings):
        with tempfile.TemporaryDirectory() as folder, quiet():
            validation = features_of(self.file["val/features"], self.file["val/labels"])
            trainer = self.build(Path(folder), validation, **settings)
            tokens, labels = trainer.class_tokens(trainer.views[:1])
            trainer.train()
            classifier, hits = trainer.model.learned, trainer.search()
            images = trainer.model.to_joint(tokens).double()
            means = class_means(images, labels, trainer.num_classes)
            test, truth = self.file["test/features"], torch.from_numpy(self.file["test/labels"])
            unit = F.normalize(torch.from_numpy(test), dim=-1).to(trainer.device)
            logits = self.scores(trainer, test)
            values = {
                **{"mean": means, "cov_inv": shrunk_precision(images - means[labels])},
                **{"W": classifier.weight.T, "b": classifier.bias, "alpha": classifier.alpha.clone()},
                **{"val/accuracy": 100 * hits / len(self.file["val/labels"]), "test/logits": logits},
                "test/gda_logits": classifier.logits(unit),
                "test/accuracy": 100 * (logits.argmax(dim=1).cpu() == truth).float().mean(),
            }
            classifier.alpha.zero_()
            return {**values, "test/zero_shot_logits": self.scores(trainer, test)}


class CLAP(OnFeatures):
    """With each constraint."""

    trainer = "CLAP"
    parameters = {"prototypes": lambda learned: learned.weight}
    inputs = ("meta", "text_features", "image_features", "targets", "init/", "test/", "perturbed/prototypes")
    without_effect = ("INIT", "logit_scale", "published")
    variants = {"ZS_no_constraint": "none"}

    def settings(self):
        return {
            "DATALOADER.TRAIN_X.BATCH_SIZE": len(self.file["targets"]),
            "TRAINER.CLAP.VIEWS": 1,
            **super().settings(),
        }

    def training_batch(self):
        return features_of(self.file["image_features"], self.file["targets"])

    def attributes(self):
        return {**super().attributes(), "views": [self.training_batch()]}

    def compute(self, **settings):
        values = super().compute(**settings)
        for name in ("l2_constant", "l2_balanced", "l2_corrected", "l2_adaptative", "ZS_no_constraint"):
            if self.file.under(f"{name}/"):
                constraint = {"TRAINER.CLAP.CONSTRAINT": self.variants.get(name, name)}
                values |= {f"{name}/{key}": value for key, value in super().compute(**settings, **constraint).items()}
        return values

    def observe(self, trainer):
        return {"multipliers": trainer.model.learned.multipliers.clone()}

    def images(self, trainer, features):
        return {}

    def columns(self):
        return "ce", "constraint", "total"

    def train(self, trainer, stages=1):
        super().train(trainer, stages)
        steps = trainer.recorded
        for step, following in zip(steps, [*steps[1:], self.observe(trainer)], strict=True):
            step["grown"] = following["multipliers"]

    def of_steps(self, steps):
        values = {**super().of_steps(steps), "multipliers": steps[0]["multipliers"]}
        values["steps/multipliers"] = torch.stack([step["grown"] for step in steps])
        values["steps/penalty"] = torch.stack([step["learned"].moved() for step in steps])
        return values

    def at_end(self, trainer):
        values = super().at_end(trainer)
        values["final/test_logits"] = self.scores(trainer, self.file["test/image_features"])
        trainer.model.learned.weight.data.copy_(torch.from_numpy(self.file["perturbed/prototypes"]))
        return values | {f"perturbed/{name}": value for name, value in self.at(trainer).items()}

    def at(self, trainer):
        """Return {name: value} of the loss where the prototypes are."""
        text = trainer.model.encode_text()
        match = trainer.model.match(self.input(trainer), text)
        terms = trainer.losses(match, trainer.batch["label"], text)
        losses = {f"loss/{name}": value for name, value in self.losses(terms).items()}
        (gradient,) = torch.autograd.grad(losses["loss/total"], trainer.model.learned.weight, retain_graph=True)
        return {**losses, "grad/prototypes": gradient, "logits": trainer.scores(match)}


class LPPP(OnFeatures):
    """All images in each step."""

    trainer = "LPPP"
    parameters = {
        "weight": lambda learned: learned.weight,
        "bias": lambda learned: learned.bias,
        "alpha": lambda learned: learned.alpha,
    }
    inputs = ("meta", "train/", "targets", "val/", "test/", "text_features", "init/bias")

    def settings(self):
        theirs = self.file.settings
        optim = {"NAME": "sgd", "LR": 1.0, "MOMENTUM": theirs["momentum"], "WEIGHT_DECAY": theirs["weight_decay"]}
        return {f"OPTIM.{key}": value for key, value in optim.items()} | {"OPTIM.MAX_EPOCH": theirs["train_epoch"]}

    def training_batch(self):
        return features_of(self.file["train/features"], self.file["targets"])

    def attributes(self):
        return {**super().attributes(), "views": [self.training_batch()]}

    def start(self, learned, values):
        learned.bias.data.copy_(torch.from_numpy(values["bias"]))

    def observe(self, trainer):
        return {"start": copy.deepcopy(trainer.model.learned)}

    def compute(self, **settings):
        validation = features_of(self.file["val/features"], self.file["val/labels"])
        with tempfile.TemporaryDirectory() as folder, quiet():
            trainer = self.build(Path(folder), validation, **settings)
            self.train(trainer)
            with torch.no_grad():
                return self.of_run(trainer)

    def of_run(self, trainer):
        """Return {name: value} of a finished run."""
        steps, model, test = trainer.recorded, trainer.model, self.file["test/features"]
        starts = [step["start"] for step in steps]
        hits = [self.hits(trainer, learned) for learned in [*starts[1:], steps[-1]["learned"]]]
        selected = max(range(len(hits)), key=lambda epoch: (hits[epoch], epoch))
        values = {
            **self.of_steps(steps),
            **{"lr_w": starts[0].step_size, "lr_alpha": starts[0].alpha_step_size, "selected_epoch": selected},
            "steps/val_accuracy": [100 * count / len(self.file["val/labels"]) for count in hits],
            "selected/test_logits": (logits := self.scores(trainer, test)),  # the trainer took the selected epoch
            "selected_test_accuracy": 100
            * (logits.argmax(dim=1).cpu() == torch.from_numpy(self.file["test/labels"])).float().mean(),
            "image_features": model.to_joint(self.input(trainer)[0]),
            "grad/alpha": steps[0]["learned"].slope,
            "steps/alpha": torch.stack([learned.alpha for learned in starts]),
            "steps/alpha_grad_accumulated": torch.stack([step["learned"].slope for step in steps]),
        }
        for place, learned in {"init": starts[0], "after5": steps[4]["learned"], "final": steps[-1]["learned"]}.items():
            values |= {f"{place}/{name}": value.clone() for name, value in self.read(learned).items()}
        for place, learned in {"": starts[0], "final/": steps[-1]["learned"]}.items():
            model.learned.load_state_dict(learned.state_dict())
            values[f"{place}logits"] = self.scores(trainer, self.file["train/features"])
        return values

    def hits(self, trainer, learned):
        """Return how many validation images a classifier gets right."""
        images, zero_shot, labels = trainer.validation
        logits = learned.blend(images, zero_shot / trainer.model.logit_scale)
        return int((logits.argmax(dim=1) == labels).sum())

"""Methods with global and local prompts: GalLoP and SOT-GLP."""

import copy
import tempfile
from pathlib import Path

import torch

from scripts.conformance.published import Published
from scripts.conformance.trainers import gradients, quiet
from sotglp.matching import similarities

TIE = 1e-6  # patches are interchangeable in a support if their mean similarities differ by less


class GlobalLocal(Published):
    """Recorded draws of the global prompts, cosines of both branches, predictions and OOD scores."""

    draws = ""  # name of the recorded draws

    def attributes(self):
        draws = torch.from_numpy(self.file[self.draws]).long()
        return {"draws": draws.reshape(len(draws), len(self.file["targets"]), -1)}

    def cosines(self, trainer, features, text):
        """Return the cosines (B, P, C, N) of the patches with the local prompts."""
        model = trainer.model
        return similarities(model.to_joint(features[1], self.projection(trainer)), text[1])

    def projection(self, trainer):
        """Return the layer on patch tokens, or None."""
        return dict(trainer.model.learned.items()).get("projection")

    def class_ids(self, trainer):
        """Return the BPE ids (C, L) of the class names, as the prompts have them."""
        prompts = trainer.model.learned["global_prompts"]
        ids = torch.zeros(len(prompts.ids), len(trainer.model.clip.positional_embedding), dtype=torch.long)
        for row, own, slots in zip(ids, prompts.ids, prompts.slots, strict=True):
            own = own[slots < 0]
            row[: len(own)] = own
        return ids

    def predictions(self, trainer, match):
        """Return {name: probabilities (B, C)}."""
        names = {"combined": "probs", "global": "probs_global", "local": "probs_local"}
        return {names[name]: values for name, values in trainer.probabilities(match).items()}


class GalLoP(GlobalLocal):
    """Local prompts on their best patches at several scales."""

    trainer = "GalLoP"
    draws = "steps/dropout"
    parameters = {
        "global_prompt": lambda learned: learned["global_prompts"].context,
        "local_prompts": lambda learned: learned["local_prompts"].context,
        "local_proj.linear.weight": lambda learned: learned["projection"].weight,
    }
    renamed = {"n_global_prompts": "N_GLOBAL", "topk": "TOPK", "global_dropout_p": "PROMPT_DROPOUT"}
    inputs = (*Published.inputs, "dropout/", "steps/dropout", "token_ids_template")
    without_effect = (
        *("n_local_prompts", "use_global_loss", "use_local_loss", "learn_global_prompt", "learn_local_prompts"),
        *("learn_local_proj", "ood_temp_scale", "checkpointing_segments"),
        *("lr_init", "momentum", "weight_decay", "optimizer", "max_epoch", "warmup_epoch"),
    )

    def settings(self):
        theirs, ours = self.file.settings, super().settings()
        return {
            **ours,
            **{"OPTIM.NAME": theirs["optimizer"], "OPTIM.LR": theirs["lr_init"], "OPTIM.MOMENTUM": theirs["momentum"]},
            **{"OPTIM.WEIGHT_DECAY": theirs["weight_decay"], "OPTIM.MAX_EPOCH": theirs["max_epoch"]},
            **{"OPTIM.LR_SCHEDULER": "cosine", "OPTIM.WARMUP_EPOCH": theirs["warmup_epoch"]},
            "TRAINER.GALLOP.CTX_INIT": self.words(),
        }

    def words(self):
        """Return the words that contexts start from."""
        return self.file.meta["prompts"]["template used for the initial learned context"].partition("{}")[0].strip()

    def texts(self, trainer, text):
        ids = self.class_ids(trainer)
        return {"text_features": text[0], "local_text_features": text[1], "token_ids_classes": ids}

    def matched(self, trainer, features, text, match):
        model = trainer.model
        values = {
            "global_logits": match.g,
            "local_logits": self.cosines(trainer, features, text),
            "local_image_features": model.to_joint(features[1], self.projection(trainer)),
            **self.predictions(trainer, match),
        }
        scores = trainer.ood_scores(match, self.file.settings["ood_temp_scale"])
        return values | {f"ood/{name}": value for name, value in scores.items()}

    def columns(self):
        return ["global", "local", "total"]

    def compute(self, **settings):
        """Also the loss of the start, which has a draw of its own."""
        values = super().compute(**settings)
        with tempfile.TemporaryDirectory() as folder, quiet():
            trainer = self.build(Path(folder), **settings)
        trainer.draws = torch.from_numpy(self.file["dropout/init"]).long().reshape(1, len(self.file["targets"]), -1)
        text = trainer.model.encode_text()
        terms = trainer.losses(trainer.model(trainer.batch["img"], text), trainer.batch["label"], text)
        trainer.precision.backward(sum(terms.values()), trainer.optim)
        values |= {f"loss/{name}": value for name, value in self.losses(terms).items()}
        return values | {f"grad/{name}": value for name, value in self.read(gradients(trainer.model.learned)).items()}


class SOTGLP(GlobalLocal):
    """The method of this repository. The names in its file are its own."""

    trainer = "SOTGLP"
    stopped_early = {"transport_plan": 2e-3}
    ways = (*Published.ways, "classes in parts")
    draws = "dropout_indices"
    parameters = {
        "global_prompts": lambda learned: learned["global_prompts"].context,
        "local_prompts": lambda learned: learned["local_prompts"].context,
        "local_proj": lambda learned: learned["projection"].weight,
    }
    inputs = (*Published.inputs, "trainable", "dropout_indices", "global_prompts", "local_prompts", "local_proj")

    def __init__(self, file, kept=False):
        super().__init__(copy.copy(file), kept)
        self.file.arrays = self.renamed_arrays(file.arrays)

    def renamed_arrays(self, arrays):
        """Return the file's arrays by the names of the other files, with the plans on all patches."""
        names = {"losses": "steps/losses"}
        names |= {f"{kind}_{name}": f"{kind}/{name}" for kind in ("grad", "final") for name in self.parameters}
        renamed = {names.get(name, name): value for name, value in arrays.items()}
        renamed |= {f"init/{name}": arrays[name] for name in self.parameters if name in arrays}
        plan, support = (torch.from_numpy(arrays[name]) for name in ("transport_plan", "support_indices"))
        return renamed | {"transport_plan": on_patches(plan, support.long(), arrays["local_logits"].shape[1]).numpy()}

    def build(self, folder, **settings):
        trainer = super().build(folder, **settings)
        trained = tuple(str(name).split(".")[0] for name in self.file["trainable"])
        for name in self.file.under("init/"):
            self.place(trainer.model.learned, name).requires_grad_(name.startswith(trained))
        return trainer

    def settings(self):
        meta = self.file.meta
        node = {
            **{"N_GLOBAL": meta["n_global"], "N_LOCAL": meta["n_local"], "CTX_INIT": meta["template"]},
            **{"TOPK": meta["topk"], "EPS": meta["epsilon"], "PROMPT_DROPOUT": meta["global_dropout_p"]},
            **{"PROJECTION": "local_proj" in self.file},
        }
        optim = {
            **{"NAME": "sgd", "LR": meta["lr"], "MOMENTUM": meta["momentum"], "WEIGHT_DECAY": meta["weight_decay"]},
            **{"LR_SCHEDULER": "single_step", "MAX_EPOCH": meta["steps"]},
        }
        return {f"TRAINER.SOTGLP.{k}": v for k, v in node.items()} | {f"OPTIM.{k}": v for k, v in optim.items()}

    def images(self, trainer, features):
        return {"image_cls_before_proj": features[0], "image_vv_tokens_before_proj": features[1]}

    def texts(self, trainer, text):
        clip, learned = trainer.model.clip, trainer.model.learned
        encoded = {f"{branch}_text": learned[f"{branch}_prompts"].encode(clip) for branch in ("global", "local")}
        return {**encoded, "token_ids": self.class_ids(trainer)}

    def matched(self, trainer, features, text, match):
        values = {
            "global_logits": match.g,
            "local_logits": self.cosines(trainer, features, text),
            **self.predictions(trainer, match),
            "support_indices": self.support(match),
            "transport_plan": on_patches(match.plan, match.support, match.s.shape[1]),
        }
        for name in self.file.under("ood/"):
            score, _, tau = name.partition("/T")
            values[f"ood/{name}"] = trainer.ood_scores(match, float(tau))[score]
        return values

    def support(self, match):
        """Return the file's support where ours has the same patches but for ties, else ours."""
        theirs = torch.from_numpy(self.file["support_indices"])
        if theirs.shape != match.support.shape:
            return match.support
        kept = [match.s.mT.gather(2, indices.long()).sort(dim=-1).values for indices in (match.support, theirs)]
        same = ((kept[0] - kept[1]).abs() < TIE).all(dim=-1, keepdim=True)
        return torch.where(same, theirs, match.support)

    def columns(self):
        return ["total", "global", "local"]


def on_patches(plan, support, n_patches):
    """Return plans (B, C, P, N) on all patches, of those on a support, whose order does not count."""
    whole = plan.new_zeros(*plan.shape[:2], n_patches, plan.shape[-1])
    support = support if support.dim() == 4 else support[..., None]
    return whole.scatter(2, support.expand(plan.shape), plan)

"""Methods that learn the words around class names, from CoOp to LoCoOp."""

import torch
import torch.nn.functional as F

from scripts.conformance.published import Published
from scripts.conformance.trainers import batch_of
from sotglp.prompts import tokenize
from trainers.locoop import nuisances


class CoOp(Published):
    """Shared or class-specific contexts, and the class name at the end, in the middle or in front."""

    trainer = "CoOp"
    parameters = {"ctx": lambda learned: learned.context.squeeze(-3)}

    def compute(self, **settings):
        values = super().compute(**settings)
        if self.file.under("front/") and not settings.get("TRAINER.COOP.CLASS_TOKEN_POSITION"):
            front = super().compute(**settings, **{"TRAINER.COOP.CLASS_TOKEN_POSITION": "front"})
            values |= {f"front/{name}": front[name] for name in ("logits", "text_features")}
        return values


class CoCoOp(Published):
    """A context for each image."""

    trainer = "CoCoOp"
    parameters = {
        "ctx": lambda learned: learned["prompts"].context[0],
        "meta_net.linear1.weight": lambda learned: learned["meta_net"][0].weight,
        "meta_net.linear1.bias": lambda learned: learned["meta_net"][0].bias,
        "meta_net.linear2.weight": lambda learned: learned["meta_net"][2].weight,
        "meta_net.linear2.bias": lambda learned: learned["meta_net"][2].bias,
    }
    without_effect = ("meta net hidden width (joint dim // 16)",)

    def texts(self, trainer, text):
        return {"token_ids": self.token_ids(trainer.model.learned["prompts"])}

    def matched(self, trainer, features, text, match):
        model, image = trainer.model, trainer.model.to_joint(features[0])
        of_images = model.learned["prompts"](model.clip, model.contexts(image))  # (C, B, D)
        return {"meta_net_out": model.learned["meta_net"](image), "text_features": of_images.transpose(0, 1)}


class Anchored(Published):
    """A learned prompt beside a hand-written one."""

    parameters = {"ctx": lambda learned: learned.context[0]}

    def matched(self, trainer, features, text, match):
        names = self.file.meta["class_names"]
        return {
            "teacher_token_ids": tokenize(trainer.model.clip, names, trainer.templates),
            "teacher_text_features": text[:, 1],
            "teacher_logits": trainer.model.logit_scale * match.anchor,
        }


class KgCoOp(Anchored):
    """Held near the hand-written prompt by the cosine."""

    trainer = "KgCoOp"
    without_effect = ("TRAINER.COOP.ALPHA", "TRAINER.COOP.CSC", "TRAINER.COOP.CLASS_TOKEN_POSITION")

    def settings(self):
        values = super().settings()
        if values.pop("TRAINER.KGCOOP.CTX_INIT") is False:
            values["TRAINER.KGCOOP.CTX_INIT"] = ""
        return values

    def losses(self, terms):
        return {
            "ce": terms["ce"],
            "kg": terms["kg"] / self.file.settings["TRAINER.COOP.W"],
            "total": sum(terms.values()),
        }


class ProGrad(Anchored):
    """Never against the hand-written prompt."""

    trainer = "ProGrad"
    without_effect = (
        *("TRAINER.COOP.ALPHA", "TRAINER.COOP.CSC", "TRAINER.COOP.CLASS_TOKEN_POSITION"),
        *("LOSS.GM", "LOSS.NAME", "LOSS.ALPHA"),
    )
    inputs = (*Published.inputs, "agree/images", "agree/targets")

    def observe(self, trainer):
        return {"cosine": self.directions(trainer, trainer.batch)["cosine"]}

    def directions(self, trainer, batch):
        """Return {name: value} of both gradients of a batch, what the step makes of them, and their cosine."""
        model, context = trainer.model, trainer.model.learned.context
        text = model.encode_text()
        losses = trainer.losses(model.match(model.features(batch["img"]), text), batch["label"], text)
        ce, kl = (torch.autograd.grad(losses[name], context, retain_graph=True)[0] for name in ("ce", "kl"))
        step = ce.clone()
        trainer.project(step, kl)
        found = {"grad_ce/ctx": ce[0], "grad_kl/ctx": kl[0], "grad/ctx": step[0]}
        cosine = F.cosine_similarity(ce.flatten(), kl.flatten(), dim=0)
        return {**found, "cosine": cosine, "loss/ce": losses["ce"], "loss/kl": losses["kl"]}

    def matched(self, trainer, features, text, match):
        values, agree = super().matched(trainer, features, text, match), self.file.under("agree/")
        with torch.enable_grad():
            values |= self.directions(trainer, trainer.batch)
            if agree:
                batch = batch_of(agree["images"], agree["targets"])
                found = self.directions(trainer, batch)
                features = trainer.features(batch["img"])
                match = trainer.model.match(features, text)
                image = self.images(trainer, features)["image_features"]
                teacher = trainer.model.logit_scale * match.anchor
                found |= {"logits": trainer.scores(match), "teacher_logits": teacher, "image_features": image}
                values |= {f"agree/{name}": value for name, value in found.items()}
        return values

    def losses(self, terms):
        return dict(terms)

    def of_steps(self, steps):
        return {**super().of_steps(steps), "steps/cosine": [step["cosine"] for step in steps]}


class TCP(Anchored):
    """Class-aware tokens inside the text tower."""

    trainer = "TCP"
    parameters = {
        "prompt_learner.ctx": lambda learned: learned.prompts.context[0],
        "prompt_learner.meta_net.linear1.weight": lambda learned: learned.embedding[0].weight,
        "prompt_learner.meta_net.linear1.bias": lambda learned: learned.embedding[0].bias,
        "prompt_learner.meta_net.linear2.weight": lambda learned: learned.embedding[2].weight,
        "prompt_learner.meta_net.linear2.bias": lambda learned: learned.embedding[2].bias,
    }
    renamed = {
        "consistency weight (constant in the code)": "W",
        "text block that takes the class-aware prompt (constant in the code, index from 0)": "BLOCK",
    }
    without_effect = (
        *("TRAINER.COOP.CSC", "TRAINER.COOP.W", "TRAINER.COOP.W note", "TRAINER.COOP.CLASS_TOKEN_POSITION"),
        *("share of the class-aware prompt there", "class-aware prompt tokens (constant)", "meta-net hidden width"),
        "meta-net activation",
    )
    terms = {"kg": "consistency"}

    def settings(self):
        values = super().settings()
        if values["TRAINER.TCP.CTX_INIT"] is False:
            values["TRAINER.TCP.CTX_INIT"] = ""
        return values

    def texts(self, trainer, text):
        model = trainer.model
        raw = model.learned.prompts.encode(model.clip, deep={model.learned.block: model.learned.class_tokens()})
        return {**super().texts(trainer, text), "text_features_raw": raw[:, 0]}

    def matched(self, trainer, features, text, match):
        return {"teacher/text_features": text[:, 1], "class_prompts": trainer.model.learned.class_tokens()}


class LoCoOp(Published):
    """Pushed away from patches that do not show the class."""

    trainer = "LoCoOp"
    parameters = {"ctx": lambda learned: learned.context[0]}
    renamed = {"lambda_value": "LAMBDA", "topk": "TOPK"}
    without_effect = ("TRAINER.LOCOOP.CSC", "TRAINER.LOCOOP.CLASS_TOKEN_POSITION")

    @torch.no_grad()
    def observe(self, trainer):
        match = trainer.model(trainer.batch["img"])
        return {"selected": int(nuisances(match.s, trainer.batch["label"], trainer.topk).sum())}

    def matched(self, trainer, features, text, match):
        values = {"local_image_features": trainer.model.to_joint(features[1])}
        values["local_logits"] = trainer.model.logit_scale * match.s
        values["selected"] = nuisances(match.s, trainer.batch["label"], trainer.topk)
        for name in self.file.under("ood/"):
            score, _, tau = name.partition("/T")
            values[f"ood/{name}"] = trainer.ood_scores(match, float(tau))[score]
        return values

    def losses(self, terms):
        weight = self.file.settings["lambda_value"]
        return {"id": terms["ce"], "en": terms["ood"] / weight, "total": sum(terms.values())}

    def of_steps(self, steps):
        return {**super().of_steps(steps), "steps/selected": [step["selected"] for step in steps]}

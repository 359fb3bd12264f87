"""Methods that learn text, and the files of reference numbers that their published code made."""

import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from scripts.conformance.published import Published
from scripts.conformance.trainers import batch_of, quiet
from sotglp.matching import similarities
from sotglp.prompts import tokenize
from sotglp.templates import SIXTY
from sotglp.towers import ImageTower, QuickGELU
from sotglp.transport import stopped_sinkhorn
from trainers.locoop import nuisances
from trainers.promptsrc import epoch_weights


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
        return {"ce": terms["ce"], "kg": terms["kg"] / self.file.settings["TRAINER.COOP.W"], "total": sum(terms.values())}


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


class Deep(Published):
    """Prompts in both towers."""

    ways = ("prompts in parts", "mixed precision")

    def texts(self, trainer, text):
        learned, clip = trainer.model.learned, trainer.model.clip
        raw = learned.prompts.encode(clip, deep=dict(enumerate(learned.deep, start=1)))
        return {**super().texts(trainer, text), "text_features_raw": raw[:, 0]}


class MaPLe(Deep):
    """Image prompts made from text prompts."""

    trainer = "MaPLe"

    def place(self, learned, name):
        if name == "prompt_learner.ctx":
            return learned.prompts.context[0]
        part, number, *kind = name.removeprefix("prompt_learner.").split(".")
        if part == "proj":
            return getattr(learned.couplings[0], number)
        if part == "compound_prompts_text":
            return learned.deep[int(number)]
        return getattr(learned.couplings[int(number) + 1], kind[0])

    def matched(self, trainer, features, text, match):
        prompts = trainer.model.learned.image_prompts()
        return {f"vision_prompts/{block}": values for block, values in enumerate(prompts)}


class PromptSRC(Deep):
    """Prompts held near zero-shot CLIP, and their mean over the epochs."""

    trainer = "PromptSRC"

    def place(self, learned, name):
        block = int(name.split(".")[-2]) if name.endswith("VPT_shallow") else 0
        if name.startswith("image_encoder."):
            return learned.image[block]
        return learned.deep[block - 1] if block else learned.prompts.context[0]

    def matched(self, trainer, features, text, match):
        model, names = trainer.model, self.file.meta["class_names"]
        raw = model.clip.encode_text(tokenize(model.clip, names, SIXTY)).unflatten(0, (len(names), -1)).mean(dim=1)
        zero_shot = model.to_joint(model.clip.visual(trainer.batch["img"], local=None)[0])
        values = {"text_features_mean": raw, "text_features": model.anchor, "image_features": zero_shot}
        values["logits"] = model.logit_scale * zero_shot @ model.anchor.T
        values = {f"teacher/{name}": value for name, value in values.items()}
        for name in self.file.under("gauss/"):
            node = trainer.node
            setting = (trainer.max_epoch, node.GPA_MEAN, node.GPA_STD)
            if name != "used":
                setting = (int(part.lstrip("epochsmanstd")) for part in name.split("_"))
            values[f"gauss/{name}"] = epoch_weights(*setting)
        return values

    def losses(self, terms):
        node, size = self.file.settings, self.file["logits"].size
        text, image = (terms[n] / node[f"TRAINER.PROMPTSRC.{n.upper()}_LOSS_WEIGHT"] for n in ("text", "image"))
        weighted = {"scl_text": terms["text"], "scl_image": terms["image"], "scl_logits": terms["kl"]}
        plain = {"l1_text": text, "l1_image": image, "kl_sum": terms["kl"] * size}
        return {"ce": terms["ce"], **weighted, **plain, "total": sum(terms.values())}

    def of_steps(self, steps):
        values, after = super().of_steps(steps), [self.read(step["learned"]) for step in steps]
        values |= {f"steps/{name}": torch.stack([step[name] for step in after]) for name in after[0]}
        return values | {f"last/{name}": value for name, value in after[-1].items()}


class Transport(Published):
    """Prompts and parts of an image, matched by optimal transport."""

    ways = ("prompts in parts", "mixed precision")

    @torch.no_grad()
    def observe(self, trainer, images=slice(None)):
        features = (part[images] for part in trainer.features(self.input(trainer)))
        return {"sinkhorn_iterations": self.solve(trainer, self.cosines(trainer, features, trainer.model.encode_text()))[1]}

    def cosines(self, trainer, features, text):
        """Return the cosines (B, C, P, N)."""
        return similarities(trainer.model.to_joint(list(features)[1]), text[0]).transpose(1, 2)

    def solve(self, trainer, s):
        """Return plans and the number of steps."""
        node = trainer.node
        return stopped_sinkhorn(s, node.EPS, node.THRESHOLD, node.MAX_ITER)

    def texts(self, trainer, text):
        raw = trainer.model.learned.encode(trainer.model.clip)
        values = {"text_features_raw": raw, "text_features": text[0]}
        return {name: value.transpose(0, 1) for name, value in values.items()} | {"text_features_pool": text[1][:, 0]}

    def matched(self, trainer, features, text, match):
        model, first = trainer.model, slice(0, 1)
        s = self.cosines(trainer, features, text)
        of_first = model.match(tuple(part[first] for part in features), text)
        values = {
            "transport_plan": match.plan,
            "kernel": ((s - 1) / trainer.node.EPS).exp(),
            "image_features_pool": model.to_joint(features[0]),
            "image_features": model.to_joint(features[1]).transpose(0, 1),
            "first_image/logits": trainer.scores(of_first),
            "first_image/transport_plan": of_first.plan,
        }
        values |= self.observe(trainer)
        return values | {f"first_image/{name}": value for name, value in self.observe(trainer, first).items()}

    def of_steps(self, steps):
        counts = [step["sinkhorn_iterations"] for step in steps]
        return {**super().of_steps(steps), "steps/sinkhorn_iterations": counts}

    def losses(self, terms):
        return {"total": sum(terms.values())}


class PLOT(Transport):
    """On a ResNet, whose features the file has: they take the place of our image tower's."""

    trainer = "PLOT"
    parameters = {"prompt_learner.ctx": lambda learned: learned.context}
    renamed = {
        "eps (constant)": "EPS",
        "max_iter (constant)": "MAX_ITER",
        "threshold on mean |r - r0| over the whole batch (constant)": "THRESHOLD",
    }
    without_effect = ("TRAINER.PLOT.CSC", "TRAINER.PLOT.CLASS_TOKEN_POSITION")
    inputs = (*Published.inputs, "image_features_raw")

    def clip(self):
        state = {name: value for name, value in self.file.clip().items() if not name.startswith("visual.")}
        joint = state["text_projection"].shape[1]
        visual = ImageTower(32, 16, joint, 1, 1, joint, joint, QuickGELU).state_dict()
        visual["proj"] = torch.eye(joint)
        return state | {f"visual.{name}": value for name, value in visual.items()}

    def attributes(self):
        pooled, *local = torch.from_numpy(self.file["image_features_raw"])
        features = pooled, torch.stack(local, dim=1)
        return {"batch": {"features": features, "label": torch.from_numpy(self.file["targets"])}}

    def texts(self, trainer, text):
        ids = self.token_ids(trainer.model.learned)
        return {**super().texts(trainer, text), "token_ids": ids.repeat(trainer.node.N, 1)}

    def matched(self, trainer, features, text, match):
        values = super().matched(trainer, features, text, match)
        for name, pooled in (("other", False), ("ImageNet", True)):
            trainer.model.pooled, of_data = pooled, trainer.model.pooled
            values[f"branch_{name}/logits"] = trainer.scores(trainer.model.match(features, text))
            trainer.model.pooled = of_data
        return values


class PLOTPP(Transport):
    """Vision prompts, too, learned in two stages."""

    trainer = "PLOTPP"
    renamed = PLOT.renamed
    without_effect = ("TRAINER.PLOTPP.CSC", "TRAINER.PLOTPP.CLASS_TOKEN_POSITION", "text prompt length")
    inputs = (*Published.inputs, "stage1/init/")

    def place(self, learned, name):
        if name == "prompt_learner.ctx_vision":
            return list(learned.vision)
        return [prompts.context[0] for prompts in learned.text]

    def settings(self):
        values = super().settings()
        return {**values, "OPTIM.MAX_EPOCH": 2 * values["OPTIM.MAX_EPOCH"]}

    def start(self, learned, values):
        super().start(learned, self.file.under("stage1/init/"))

    def texts(self, trainer, text):
        ids = torch.cat([self.token_ids(prompts, n) for n, prompts in enumerate(trainer.model.learned.text)])
        return {**super().texts(trainer, text), "token_ids": ids}

    def images(self, trainer, features):
        return {"image_features_raw": (features[1] @ trainer.model.clip.visual.proj).transpose(0, 1)}

    def matched(self, trainer, features, text, match):
        values, joint = super().matched(trainer, features, text, match), trainer.model.learned.joint
        joint.logical_not_()
        values["other_trade_off/logits"] = trainer.scores(trainer.model.match(features, text))
        joint.logical_not_()
        return values

    def compute(self, **settings):
        with tempfile.TemporaryDirectory() as folder, quiet():
            trainer = self.build(Path(folder), **settings)
            learned = trainer.model.learned
            learned.joint.fill_(False)
            values = self.evaluated(trainer)
            trainer.train()
            half, end = len(trainer.recorded) // 2, copy.deepcopy(learned.state_dict())
            learned.load_state_dict(trainer.recorded[half - 1]["learned"].state_dict())
            values |= {**self.of_steps(trainer.recorded[:half]), **self.at_end(trainer)}
            values = {f"stage1/{name}": value for name, value in values.items()}
            learned.joint.fill_(True)
            values |= {**self.evaluated(trainer), **self.of_steps(trainer.recorded[half:])}
            learned.load_state_dict(end)
            return {**values, **self.at_end(trainer)}

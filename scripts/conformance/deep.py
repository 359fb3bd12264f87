"""Methods with prompts in both towers: MaPLe and PromptSRC."""

import re

import torch

from scripts.conformance.published import Published
from sotglp.prompts import tokenize
from sotglp.templates import SIXTY
from trainers.promptsrc import epoch_weights


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
                setting = map(int, re.findall(r"\d+", name))  # epochs, mean and standard deviation
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

"""Methods that match all prompts with all parts of an image by optimal transport: PLOT and PLOT++."""

import copy
import tempfile
from pathlib import Path

import torch

from scripts.conformance.published import Published
from scripts.conformance.trainers import quiet
from sotglp.matching import similarities
from sotglp.towers import ImageTower, QuickGELU
from sotglp.transport import stopped_sinkhorn


class Transport(Published):
    """Prompts and parts of an image, matched by optimal transport."""

    ways = ("prompts in parts", "mixed precision")

    @torch.no_grad()
    def observe(self, trainer, images=slice(None)):
        features = (part[images] for part in trainer.features(self.input(trainer)))
        return {
            "sinkhorn_iterations": self.solve(trainer, self.cosines(trainer, features, trainer.model.encode_text()))[1]
        }

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

    def training_batch(self):
        pooled, *local = torch.from_numpy(self.file["image_features_raw"])
        return {"features": (pooled, torch.stack(local, dim=1)), "label": torch.from_numpy(self.file["targets"])}

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
            self.train(trainer, stages=2)
            half, end = len(trainer.recorded) // 2, copy.deepcopy(learned.state_dict())
            learned.load_state_dict(trainer.recorded[half - 1]["learned"].state_dict())
            values |= {**self.of_steps(trainer.recorded[:half]), **self.at_end(trainer)}
            values = {f"stage1/{name}": value for name, value in values.items()}
            learned.joint.fill_(True)
            values |= {**self.evaluated(trainer), **self.of_steps(trainer.recorded[half:])}
            learned.load_state_dict(end)
            return {**values, **self.at_end(trainer)}

"""ProGrad (arXiv 2205.14865): a learned context that never moves against zero-shot CLIP.

A step goes down the cross-entropy. Where its gradient g opposes the gradient z of the divergence from zero-shot CLIP's
prediction, it loses its part along z: g - LAMBDA (g.z / z.z) z if g.z < 0. Weight decay and momentum come afterwards.

As in the authors' code, the divergence is T^2 times the cross-entropy with zero-shot CLIP at temperature T, which has
the gradient of KL(zero-shot | learned). The template puts the type first, and its words start the context: as many of
its tokens as it has words between blanks, at the context's end, behind zeros. Further tokens stay fixed.
"""

import torch
import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY
from sotglp.precision import repeatable
from sotglp.prompted import AnchoredCLIP
from sotglp.prompts import Prompts, first_tokens
from sotglp.toolbox.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class ProGrad(CLIPTrainer):
    """Prompt-aligned Gradient for Prompt Tuning, https://arxiv.org/abs/2205.14865"""

    NODE = "PROGRAD"
    splits = False  # one gradient changes the other before processes average them
    DEFAULTS = dict(
        N_CTX=16,  # context tokens
        CTX_INIT=True,  # the context starts from the words of the data set's template; at random if False
        LAMBDA=1.0,  # share of the opposing part that is left out
        T=1.0,  # temperature of both predictions in the divergence
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    TEMPLATES = {
        "OxfordPets": "a type of pet, a photo of a {}.",
        "OxfordFlowers": "a type of flower, a photo of a {}.",
        "FGVCAircraft": "a type of aircraft, a photo of a {}.",
        "DescribableTextures": "a texture of {}.",
        "Food101": "a type of food, a photo of {}.",
    }
    RANGES = {"N_CTX": "[1, inf)", "LAMBDA": "[0, inf)", "T": "(0, inf)"}

    def make_model(self, clip, names):
        prompts = self.prompts_of_template(clip, names) if self.node.CTX_INIT else self.shared_prompts(clip, names)
        return AnchoredCLIP(clip, prompts, self.zero_shot_text(clip, names))

    def prompts_of_template(self, clip, names):
        """Return prompts whose context ends in the words of the data set's template."""
        n_ctx = self.node.N_CTX
        words = self.templates[0].partition("{}")[0].strip()
        replaced = min(len(words.split(" ")), n_ctx)
        context = F.pad(first_tokens(clip, words, replaced), (0, 0, n_ctx - replaced, 0))
        return Prompts(clip, names, context[None], f"{words} {{}}.", replaced)

    def losses(self, match, targets, text):
        t = self.node.T
        zero_shot = (self.model.logit_scale * match.anchor / t).softmax(dim=1)
        return {**super().losses(match, targets, text), "kl": t**2 * F.cross_entropy(self.scores(match) / t, zero_shot)}

    def step(self, losses):
        self.detect_anomaly(sum(losses.values()), losses)
        parameters = [p for group in self.optim.param_groups for p in group["params"]]
        with repeatable():
            guides = torch.autograd.grad(self.scaler.scale(losses["kl"]), parameters, retain_graph=True)
        self.detect_anomaly(self.precision.backward(losses["ce"], self.optim), what="A gradient")
        for parameter, guide in zip(parameters, guides, strict=True):
            self.project(parameter.grad, guide)
        self.precision.step(self.optim)

    def project(self, gradient, guide):
        """Take from a gradient, in place, LAMBDA times its part along the guide if they oppose each other."""
        along = (gradient * guide).sum()
        if along < 0:
            gradient -= self.node.LAMBDA * along / guide.square().sum() * guide

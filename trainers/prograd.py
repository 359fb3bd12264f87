"""ProGrad (arXiv 2205.14865): a learned context that never moves against zero-shot CLIP.

A step goes down the cross-entropy. Where its gradient g opposes the gradient z of the divergence from zero-shot CLIP's
prediction, KL(zero-shot | learned), it loses its part along z: g - LAMBDA (g.z / z.z) z if g.z < 0.
"""

import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY
from sotglp.precision import repeatable
from sotglp.prompted import AnchoredCLIP
from sotglp.toolbox.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class ProGrad(CLIPTrainer):
    """Prompt-aligned Gradient for Prompt Tuning, https://arxiv.org/abs/2205.14865"""

    NODE = "PROGRAD"
    splits = False  # one gradient changes the other before processes average them
    DEFAULTS = dict(
        N_CTX=16,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="",  # words that the context starts from; random if empty
        LAMBDA=1.0,  # share of the opposing part that is left out
        PREC="fp32",  # only: the two gradients are compared unscaled
    )
    RANGES = {"N_CTX": "[1, inf)", "LAMBDA": "[0, inf)"}

    def check_cfg(self, cfg):
        if cfg.TRAINER.PROGRAD.PREC != "fp32":
            raise ValueError(f"TRAINER.PROGRAD.PREC must be fp32, got {cfg.TRAINER.PROGRAD.PREC!r}")

    def make_model(self, clip, names):
        return AnchoredCLIP(clip, self.shared_prompts(clip, names), self.zero_shot_text(clip, names))

    def losses(self, match, targets, text):
        learned, zero_shot = self.scores(match), self.model.logit_scale * match.anchor
        log_p, log_q = (logits.log_softmax(dim=1) for logits in (learned, zero_shot))
        divergence = F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
        return {**super().losses(match, targets, text), "kl": divergence}

    def step(self, losses):
        with repeatable():
            self.prograd_backward_and_update(losses["ce"], losses["kl"], self.node.LAMBDA)

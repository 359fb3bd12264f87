"""ProGrad: a learned context that never moves against zero-shot CLIP."""

import torch.nn.functional as F
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp.precision import repeatable
from sotglp.prompted import AnchoredCLIP
from sotglp.prompts import encode_names
from sotglp.templates import template_of
from sotglp.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class ProGrad(CLIPTrainer):
    """Prompt-aligned Gradient for Prompt Tuning, https://arxiv.org/abs/2205.14865

    The step goes down the cross-entropy, without the part of its gradient that opposes the gradient of the
    divergence from zero-shot CLIP's prediction.
    """

    NODE = "PROGRAD"
    splits = False  # a gradient changes the other one before they are averaged

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.PROGRAD = node = CN()
        node.N_CTX = 16  # context tokens, unless CTX_INIT gives the words
        node.CTX_INIT = ""  # words that the context starts from; random if empty
        node.LAMBDA = 1.0  # share of the opposing part that is left out
        node.PREC = "fp32"  # only: the two gradients are compared unscaled

    def check_cfg(self, cfg):
        if cfg.TRAINER.PROGRAD.PREC != "fp32":
            raise ValueError(f"TRAINER.PROGRAD.PREC must be fp32, got {cfg.TRAINER.PROGRAD.PREC!r}")

    def make_model(self, clip, names):
        anchor = encode_names(clip, names, [template_of(self.cfg.DATASET.NAME)])
        return AnchoredCLIP(clip, self.shared_prompts(clip, names), anchor)

    def losses(self, match, targets, text):
        learned, zero_shot = self.scores(match), self.model.logit_scale * match.anchor
        log_p, log_q = (logits.log_softmax(dim=1) for logits in (learned, zero_shot))
        divergence = F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
        return {**super().losses(match, targets, text), "kl": divergence}

    def step(self, losses):
        with repeatable():
            self.prograd_backward_and_update(losses["ce"], losses["kl"], self.node.LAMBDA)

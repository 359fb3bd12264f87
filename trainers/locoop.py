"""LoCoOp: CoOp whose prompts are pushed away from patches that show no class."""

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.trainer import CLIPTrainer


def nuisance_entropy(logits, targets, k):
    """Mean entropy of the class probabilities of patches that do not have the image's class among their k best.

    logits (B, P, C); targets (B,). 0 if there is no such patch.
    """
    best = logits.topk(k, dim=-1).indices
    nuisance = (best != targets[:, None, None]).all(dim=-1)  # (B, P)
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return (entropy * nuisance).sum() / nuisance.sum().clamp(min=1)


@TRAINER_REGISTRY.register()
class LoCoOp(CLIPTrainer):
    """LoCoOp: Few-Shot Out-of-Distribution Detection via Prompt Learning, https://arxiv.org/abs/2306.01293"""

    NODE = "LOCOOP"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.LOCOOP = node = CN()
        node.N_CTX = 16  # context tokens, unless CTX_INIT gives the words
        node.CTX_INIT = ""  # words that the context starts from; random if empty
        node.TOPK = 0  # ranks that make a patch the class's; 0 is a fifth of the classes: the published 200 of 1000
        node.LAMBDA = 0.25  # weight of the entropy of the other patches
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        self.topk = self.node.TOPK or max(len(names) // 5, 1)
        if not 1 <= self.topk <= len(names):
            raise ValueError(f"TRAINER.LOCOOP.TOPK must be 1 to {len(names)} classes, or 0 for a fifth: {self.topk}")
        return PromptedCLIP(clip, self.shared_prompts(clip, names), local="value")

    def losses(self, match, targets, text):
        entropy = nuisance_entropy(self.model.logit_scale * match.s.float(), targets, self.topk)
        return {**super().losses(match, targets, text), "ood": -self.node.LAMBDA * entropy}

"""LoCoOp (arXiv 2306.01293): CoOp whose prompts are pushed away from patches that do not show the class.

A patch shows the image's class if the class is among the TOPK best of the patch. All others should match no class:
loss = CE - LAMBDA * H, with the mean entropy H of their class probabilities.
"""

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.toolbox.trainer import CLIPTrainer


def nuisance_entropy(logits, targets, k):
    """Return the mean entropy () of patches that do not have the image's class among their k best; 0 without any.

    Args:
        logits: of the patches (B, P, C).
        targets: labels (B,) of the images.
        k: number of classes.
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
    DEFAULTS = dict(
        N_CTX=16,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="",  # words that the context starts from; random if empty
        TOPK=0,  # best classes of a patch that it shows; 0 is a fifth of the classes, as the published 200 of 1000
        LAMBDA=0.25,  # weight of the other patches' entropy
        PREC="fp16",  # fp32, amp or fp16
    )
    RANGES = {"N_CTX": "[1, inf)", "TOPK": "[0, inf)", "LAMBDA": "[0, inf)"}

    def make_model(self, clip, names):
        self.topk = self.node.TOPK or max(len(names) // 5, 1)
        if self.topk > len(names):
            raise ValueError(f"TRAINER.LOCOOP.TOPK must be 1 to {len(names)} classes, or 0 for a fifth: {self.topk}")
        return PromptedCLIP(clip, self.shared_prompts(clip, names), local="value")

    def losses(self, match, targets, text):
        entropy = nuisance_entropy(self.model.logit_scale * match.s.float(), targets, self.topk)
        return {**super().losses(match, targets, text), "ood": -self.node.LAMBDA * entropy}

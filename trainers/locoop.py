"""LoCoOp (arXiv 2306.01293): CoOp whose prompts are pushed away from patches that do not show the class.

A patch shows the image's class if the class is among the TOPK best of the patch. All others should match no class:
loss = CE - LAMBDA * H, with the mean entropy H of their class probabilities p, over all such patches of the batch.

As in the authors' code, the entropy takes log(p + 1e-5), patches are the last block's values with residual and MLP, and
OOD scores divide the logits by 100, whatever CLIP's logit scale.
"""

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.toolbox.trainer import CLIPTrainer

OPENAI_SCALE = 100  # logit scale of OpenAI's CLIP


def nuisances(logits, targets, k):
    """Return whether patches (B, P) lack the image's class among their k best.

    Args:
        logits: of the patches (B, P, C).
        targets: labels (B,) of the images.
        k: number of classes.
    """
    return (logits.topk(k, dim=-1).indices != targets[:, None, None]).all(dim=-1)


def mean_entropy(logits, chosen):
    """Return the mean entropy () of the class probabilities of chosen patches (B, P); 0 without any."""
    p = logits.softmax(dim=-1)
    entropy = -(p * (p + 1e-5).log()).sum(dim=-1)
    return (entropy * chosen).sum() / chosen.sum().clamp(min=1)


@TRAINER_REGISTRY.register()
class LoCoOp(CLIPTrainer):
    """LoCoOp: Few-Shot Out-of-Distribution Detection via Prompt Learning, https://arxiv.org/abs/2306.01293"""

    NODE = "LOCOOP"
    DEFAULTS = dict(
        N_CTX=16,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="",  # words that the context starts from; random if empty
        TOPK=0,  # best classes of a patch that it shows; 0 is a fifth of the classes, as the published 200 of 1000
        LAMBDA=0.25,  # weight of the other patches' entropy
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"N_CTX": "[1, inf)", "TOPK": "[0, inf)", "LAMBDA": "[0, inf)"}

    def make_model(self, clip, names):
        self.topk = self.node.TOPK or max(len(names) // 5, 1)
        if self.topk > len(names):
            raise ValueError(f"TRAINER.LOCOOP.TOPK must be 1 to {len(names)} classes, or 0 for a fifth: {self.topk}")
        return PromptedCLIP(clip, self.shared_prompts(clip, names), local="value")

    def losses(self, match, targets, text):
        logits = self.model.logit_scale * match.s.float()
        entropy = mean_entropy(logits, nuisances(logits, targets, self.topk))
        return {**super().losses(match, targets, text), "ood": -self.node.LAMBDA * entropy}

    def ood_scores(self, match, tau=1.0, features=None):
        return super().ood_scores(match, tau * OPENAI_SCALE / self.model.logit_scale, features)

"""PLOT (arXiv 2210.01253): several shared prompts, matched with all patches by optimal transport.

For each image and class a plan T shares out the P patches among the N prompts, by entropic transport with uniform
marginals. The class's score is 1 - <T, 1 - s> = <T, s>, with the cosines s. No gradient passes T. On ImageNet the
cosine of the image with the mean of the N text features, not normalised yet, is added.

PLOT is published for a ResNet. On a vision transformer this trainer is a reading of ours: the last patch tokens stand
for the ResNet's feature map, the class token for its pooled feature. The authors' method for transformers is PLOT++.

As in the authors' code, Sinkhorn stops early (``stopped_sinkhorn``). A small THRESHOLD gives the exact plan.
"""

from functools import partial

import torch.nn.functional as F

from dassl.engine import TRAINER_REGISTRY
from sotglp import Match, PromptedCLIP
from sotglp.matching import similarities
from sotglp.toolbox.trainer import CLIPTrainer
from sotglp.transport import stopped_plan


class TransportCLIP(PromptedCLIP):
    """N prompts of each class and the P tokens of an image, matched by entropic transport.

    Args:
        clip: frozen here.
        prompts: shared by the classes.
        eps, threshold, max_iter: of ``stopped_sinkhorn``.
        local: the stream of the tokens, if they are patches.

    Attributes:
        pooled: whether the cosine of the pooled features is added to the score.
    """

    pooled = False

    def __init__(self, clip, prompts, eps, threshold, max_iter, local="last"):
        super().__init__(clip, prompts, local)
        self.transport_plan = partial(stopped_plan, eps=eps, threshold=threshold, max_iter=max_iter)

    def encode_text(self):
        """Return normalised text features (C, N, D), and normalised means (C, 1, D) of those before."""
        text = self.learned.encode(self.clip)
        return F.normalize(text, dim=-1), F.normalize(text.mean(dim=1, keepdim=True), dim=-1)

    def match(self, features, text):
        """Return a Match with plan (B, C, P, N) and l (B, C); there is no sparse support."""
        (pooled_token, tokens), (text, pooled_text) = features, text
        g = similarities(self.to_joint(pooled_token), pooled_text)  # (B, C, 1)
        s = similarities(self.to_joint(tokens), text)  # (B, P, C, N)
        by_class = s.transpose(1, 2)
        plan = self.transport_plan(by_class)
        l = (plan * by_class).sum(dim=(-2, -1))  # noqa: E741 (the paper's letter)
        return Match(g, s.mean(dim=-1), None, plan, l + g[..., 0] if self.pooled else l)


class TransportTrainer(CLIPTrainer):
    """The base of PLOT and PLOT++."""

    DEFAULTS = dict(
        N=4,  # prompts
        EPS=0.1,  # entropic regularisation
        THRESHOLD=1e-2,  # mean change of Sinkhorn's scaling below which it stops
        MAX_ITER=100,  # largest number of its steps
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"N": "[1, inf)", "EPS": "(0, inf)", "THRESHOLD": "[0, inf)", "MAX_ITER": "[1, inf)"}

    def scores(self, match):
        return self.model.logit_scale * match.l


@TRAINER_REGISTRY.register()
class PLOT(TransportTrainer):
    """Prompt Learning with Optimal Transport for Vision-Language Models, https://arxiv.org/abs/2210.01253"""

    NODE = "PLOT"
    DEFAULTS = dict(
        **TransportTrainer.DEFAULTS,
        N_CTX=16,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="",  # words that the contexts start from; random if empty
    )
    RANGES = {**TransportTrainer.RANGES, "N_CTX": "[1, inf)"}

    def make_model(self, clip, names):
        node = self.node
        model = TransportCLIP(clip, self.shared_prompts(clip, names, node.N), node.EPS, node.THRESHOLD, node.MAX_ITER)
        model.pooled = self.cfg.DATASET.NAME == "ImageNet"
        return model

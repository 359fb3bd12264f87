"""PLOT (arXiv 2210.01253): several shared prompts, matched with all patches by optimal transport.

For each image and class a plan T shares out the P patches among the N prompts, by entropic transport with uniform
marginals. The class's score is 1 - <T, 1 - s> = <T, s>, with the cosines s. No gradient passes T. The last patch tokens
of the vision transformer stand for the feature map of the paper's ResNet.
"""

from functools import partial

from dassl.engine import TRAINER_REGISTRY
from sotglp import Match, PromptedCLIP, transport_plan
from sotglp.matching import similarities
from sotglp.toolbox.trainer import CLIPTrainer


class TransportCLIP(PromptedCLIP):
    """N prompts of each class and all P patches, matched by balanced entropic transport.

    Args:
        clip: frozen here.
        prompts: shared by the classes.
        eps: entropic regularisation.
    """

    def __init__(self, clip, prompts, eps):
        super().__init__(clip, prompts, local="last")
        self.transport_plan = partial(transport_plan, eps=eps)

    def match(self, features, text):
        """Return a Match with plan (B, C, P, N) and l (B, C); there is no sparse support."""
        class_token, tokens = features
        g, s = (similarities(self.to_joint(t), text) for t in (class_token, tokens))
        by_class = s.transpose(1, 2)  # (B, C, P, N)
        plan = self.transport_plan(by_class)
        return Match(g, s.mean(dim=-1), None, plan, l=(plan * by_class).sum(dim=(-2, -1)))


@TRAINER_REGISTRY.register()
class PLOT(CLIPTrainer):
    """Prompt Learning with Optimal Transport for Vision-Language Models, https://arxiv.org/abs/2210.01253"""

    NODE = "PLOT"
    DEFAULTS = dict(
        N=4,  # prompts
        N_CTX=16,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="",  # words that the contexts start from; random if empty
        EPS=0.1,  # entropic regularisation
        PREC="fp16",  # fp32, amp or fp16
    )
    RANGES = {"N": "[1, inf)", "N_CTX": "[1, inf)", "EPS": "(0, inf)"}

    def make_model(self, clip, names):
        return TransportCLIP(clip, self.shared_prompts(clip, names, self.node.N), self.node.EPS)

    def scores(self, match):
        return self.model.logit_scale * match.l

"""PLOT: several shared prompts, matched with all patches by optimal transport."""

from functools import partial

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import Match, PromptedCLIP, transport_plan
from sotglp.matching import similarities
from sotglp.trainer import CLIPTrainer


class TransportCLIP(PromptedCLIP):
    """Prompts (N for each class) and all P patches, shared out by balanced entropic transport."""

    def __init__(self, clip, prompts, eps):
        super().__init__(clip, prompts, local="last")
        self.plan = partial(transport_plan, eps=eps)
        self.plan(prompts.context.new_zeros(1, 1))  # refuses an impossible eps before the first images

    def match(self, features, text):
        class_token, tokens = features
        g, s = (similarities(self.to_joint(t), text) for t in (class_token, tokens))
        by_class = s.transpose(1, 2)  # (B, C, P, N)
        plan = self.plan(by_class)
        return Match(g, s.mean(dim=-1), None, plan, l=(plan * by_class).sum(dim=(-2, -1)))


@TRAINER_REGISTRY.register()
class PLOT(CLIPTrainer):
    """Prompt Learning with Optimal Transport for Vision-Language Models, https://arxiv.org/abs/2210.01253

    As for ResNets in the paper, on a vision transformer: its last patch tokens stand for the feature map. A class's
    score is 1 - distance, the transported similarity; no gradient passes the plan.
    """

    NODE = "PLOT"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.PLOT = node = CN()
        node.N = 4  # prompts
        node.N_CTX = 16  # context tokens, unless CTX_INIT gives the words
        node.CTX_INIT = ""  # words that the contexts start from; random if empty
        node.EPS = 0.1  # entropic regularisation
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        return TransportCLIP(clip, self.shared_prompts(clip, names, self.node.N), self.node.EPS)

    def scores(self, match):
        return self.model.logit_scale * match.l

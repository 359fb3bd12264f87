"""CoOp: a learned context in front of the class names."""

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP, Prompts
from sotglp.prompts import start_contexts, with_stops
from sotglp.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class CoOp(CLIPTrainer):
    """Context Optimization.

    Learning to Prompt for Vision-Language Models, https://arxiv.org/abs/2109.01134
    """

    NODE = "COOP"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.COOP = node = CN()
        node.N_CTX = 16  # context tokens, unless CTX_INIT gives the words
        node.CSC = False  # a context of each class's own
        node.CTX_INIT = ""  # words that the context starts from; random if empty
        node.CLASS_TOKEN_POSITION = "end"  # end, middle or front
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        node = self.node
        context = start_contexts(clip, len(names) if node.CSC else 1, node.N_CTX, node.CTX_INIT)
        if node.CSC:
            context = context.unsqueeze(1)  # (C, 1, T, W)
        return PromptedCLIP(clip, Prompts(clip, with_stops(names), context, node.CLASS_TOKEN_POSITION))

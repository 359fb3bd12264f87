"""KgCoOp: a learned context held near the hand-written one."""

from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp.prompted import AnchoredCLIP
from sotglp.prompts import encode_names
from sotglp.templates import template_of
from sotglp.trainer import CLIPTrainer


@TRAINER_REGISTRY.register()
class KgCoOp(CLIPTrainer):
    """Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, https://arxiv.org/abs/2303.13283"""

    NODE = "KGCOOP"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.KGCOOP = node = CN()
        node.N_CTX = 4  # context tokens, unless CTX_INIT gives the words
        node.CTX_INIT = "a photo of a"  # words that the context starts from; random if empty
        node.W = 8.0  # weight of the squared distance to the text features of the hand-written prompts
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        anchor = encode_names(clip, names, [template_of(self.cfg.DATASET.NAME)])
        return AnchoredCLIP(clip, self.shared_prompts(clip, names), anchor)

    def losses(self, match, targets, text):
        learned, anchor = text.float().unbind(dim=1)
        distance = (learned - anchor).square().sum(dim=-1).mean()
        return {**super().losses(match, targets, text), "kg": self.node.W * distance}

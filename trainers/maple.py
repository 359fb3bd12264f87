"""MaPLe: prompts of both towers, those of the images made from those of the text."""

from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp.deep import DeepPromptedCLIP, check_depth, first_context, random_prompts
from sotglp.trainer import CLIPTrainer


class CoupledPrompts(nn.Module):
    """Text prompts of the first J blocks, and for each block a linear map to those of the image tower."""

    def __init__(self, clip, prompts, depth):
        super().__init__()
        _, n_ctx, width = prompts.context.shape
        self.prompts, self.deep = prompts, random_prompts(depth - 1, n_ctx, width)
        self.couplings = nn.ModuleList(nn.Linear(width, len(clip.visual.proj)) for _ in range(depth))

    def image_prompts(self):
        text = [self.prompts.context[0], *self.deep]
        return [coupling(prompts) for coupling, prompts in zip(self.couplings, text, strict=True)]


@TRAINER_REGISTRY.register()
class MaPLe(CLIPTrainer):
    """MaPLe: Multi-modal Prompt Learning, https://arxiv.org/abs/2210.03117"""

    NODE = "MAPLE"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.MAPLE = node = CN()
        node.N_CTX = 2  # prompts of a block
        node.CTX_INIT = "a photo of a"  # words whose first N_CTX the text's start from; random if empty
        node.DEPTH = 9  # blocks with prompts
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        node = self.node
        check_depth(clip, node.DEPTH, "TRAINER.MAPLE.DEPTH")
        prompts = first_context(clip, names, node.N_CTX, node.CTX_INIT)
        return DeepPromptedCLIP(clip, CoupledPrompts(clip, prompts, node.DEPTH))

"""MaPLe (arXiv 2210.03117): prompts in both towers, those of the image tower made from those of the text tower.

Each of the first PROMPT_DEPTH blocks has its own prompts: learned text prompts p_j, and image prompts F_j p_j by a
learned linear map F_j. The first N_CTX words of CTX_INIT start the first text prompts; the others stay fixed.
"""

from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp import CLIP
from sotglp.deep import DeepPromptedCLIP, DeepPrompts, check_depth, first_context
from sotglp.toolbox.trainer import CLIPTrainer


class CoupledPrompts(DeepPrompts):
    """Text prompts of the first J blocks, and for each block a linear map to those of the image tower."""

    def __init__(self, clip, prompts, depth):
        super().__init__(prompts, depth)
        width = prompts.context.shape[-1]
        self.couplings = nn.ModuleList(nn.Linear(width, len(clip.visual.proj)) for _ in range(depth))

    def image_prompts(self):
        text = [self.prompts.context[0], *self.deep]
        return [coupling(prompts) for coupling, prompts in zip(self.couplings, text, strict=True)]


@TRAINER_REGISTRY.register()
class MaPLe(CLIPTrainer):
    """MaPLe: Multi-modal Prompt Learning, https://arxiv.org/abs/2210.03117"""

    NODE = "MAPLE"
    BACKBONE = CLIP
    DEFAULTS = dict(
        N_CTX=2,  # prompts of a block
        CTX_INIT="a photo of a",  # words whose first N_CTX the first text prompts start from; random if empty
        PROMPT_DEPTH=9,  # blocks with prompts, in both towers
        PREC="fp16",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"N_CTX": "[1, inf)", "PROMPT_DEPTH": "[1, inf)"}

    def make_model(self, clip, names):
        node = self.node
        deeper = max(clip.visual, clip, key=lambda tower: len(tower.transformer.resblocks))
        check_depth(deeper, node.PROMPT_DEPTH, "TRAINER.MAPLE.PROMPT_DEPTH")
        prompts = first_context(clip, names, node.N_CTX, node.CTX_INIT)
        return DeepPromptedCLIP(clip, CoupledPrompts(clip, prompts, node.PROMPT_DEPTH))

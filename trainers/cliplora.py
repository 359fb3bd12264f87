"""CLIP-LoRA (arXiv 2405.18541): low-rank matrices beside the attention of both towers.

In each block the queries, keys and values of x gain (alpha / sqrt(r)) B A x. A (r x W) and B (W x r) are learned, and
B is 0 at first, as in LoRA (arXiv 2106.09685). Each gain drops channels of x on its own. The learning rate falls in a
cosine over all steps to 1e-6.

As in the authors' code, the logit scale is 100 whatever CLIP's is, and the text is "a photo of a {}." on every data
set. With DROPOUT 0 their code has a gradient that misses what a gain passes to the blocks before; ours has it.
"""

import math

import torch.nn.functional as F
from torch import nn
from torch.nn import init

from dassl.engine import TRAINER_REGISTRY
from sotglp import CLIP, PromptedCLIP
from sotglp.prompts import tokenize
from sotglp.templates import DEFAULT
from sotglp.toolbox.adapter import scale_logits
from sotglp.toolbox.trainer import CLIPTrainer


class LowRank(nn.Sequential):
    """The gain (alpha / sqrt(r)) B A dropout(x) of a frozen map of W channels to W; 0 at first."""

    def __init__(self, width, rank, alpha, dropout):
        super().__init__(nn.Dropout(dropout), nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False))
        self.scale = alpha / math.sqrt(rank)
        init.kaiming_uniform_(self[1].weight, a=math.sqrt(5))
        init.zeros_(self[2].weight)

    def forward(self, x):
        return self.scale * super().forward(x)


class AdaptedAttention(nn.Module):
    """A frozen sotglp.towers.Attention with low-rank maps added to its queries, keys and values (q, k, v)."""

    def __init__(self, attention, maps):
        super().__init__()
        self.attention, self.maps = attention, maps
        self.attend, self.merge = attention.attend, attention.merge

    def project(self, x, queries):
        """Return queries, keys and values as ``Attention.project`` does."""
        gains = self.maps["q"](queries), self.maps["k"](x), self.maps["v"](x)
        heads = self.attention.heads
        split = [gain.unflatten(-1, (heads, -1)).transpose(1, 2) for gain in gains]
        return [old + gain for old, gain in zip(self.attention.project(x, queries), split, strict=True)]


class AdaptedCLIP(PromptedCLIP):
    """Both towers with low-rank maps in each block.

    Args:
        clip: frozen here, but for the maps.
        ids: BPE ids (C, L) of the texts.
        rank, alpha, dropout: of the maps.
        logit_scale: factor of the cosines; 0 stands for CLIP's own.
    """

    frozen_images = False

    def __init__(self, clip, ids, rank, alpha, dropout, logit_scale):
        blocks = [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]
        widths = [len(block.ln_1.weight) for block in blocks]
        maps = [nn.ModuleDict({name: LowRank(w, rank, alpha, dropout) for name in "qkv"}) for w in widths]
        super().__init__(clip, nn.ModuleList(maps))  # freezes CLIP, before the maps join it
        for block, of_block in zip(blocks, maps, strict=True):
            block.attn = AdaptedAttention(block.attn, of_block)
        self.register_buffer("ids", ids, persistent=False)
        scale_logits(clip, logit_scale)

    def features(self, images):
        """Return the class tokens (B, W), and None; unlike in the base class with gradients."""
        return self.clip.visual(images, self.local)

    def encode_text(self):
        """Return normalised text features (C, 1, D). In training each text drops channels of its own."""
        text = self.clip.encode_text(self.ids, apart=self.learned.training)
        return F.normalize(text, dim=-1).unsqueeze(1)


@TRAINER_REGISTRY.register()
class CLIPLoRA(CLIPTrainer):
    """Low-Rank Few-Shot Adaptation of Vision-Language Models, https://arxiv.org/abs/2405.18541"""

    NODE = "CLIPLORA"
    BACKBONE = CLIP
    LR_MIN = 1e-6
    splits = False  # dropout draws random numbers inside the towers
    DEFAULTS = dict(
        RANK=2,  # r
        ALPHA=1.0,  # scale of the product, times the root of r
        DROPOUT=0.25,  # share of the channels left out before the product, in training
        LOGIT_SCALE=100.0,  # factor of the cosines; 0: CLIP's own
        PREC="amp",  # fp32, amp, fp16 or bf16
    )
    RANGES = {"RANK": "[1, inf)", "ALPHA": "[0, inf)", "DROPOUT": "[0, 1)", "LOGIT_SCALE": "[0, inf)"}

    def make_model(self, clip, names):
        node = self.node
        ids = tokenize(clip, names, [DEFAULT])
        return AdaptedCLIP(clip, ids, node.RANK, node.ALPHA, node.DROPOUT, node.LOGIT_SCALE)

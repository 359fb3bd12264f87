"""CLIP-LoRA: low-rank matrices beside the attention of both towers."""

import math

import torch.nn.functional as F
from torch import nn
from torch.nn import init
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp import PromptedCLIP
from sotglp.prompts import tokenize
from sotglp.trainer import CLIPTrainer


class LowRank(nn.Sequential):
    """(alpha / r) B A dropout(x), to be added to a frozen map of W channels to W; at first 0."""

    def __init__(self, width, rank, alpha, dropout):
        super().__init__(nn.Dropout(dropout), nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False))
        self.scale = alpha / rank
        init.kaiming_uniform_(self[1].weight, a=math.sqrt(5))
        init.zeros_(self[2].weight)

    def forward(self, x):
        return self.scale * super().forward(x)


class AdaptedAttention(nn.Module):
    """A frozen sotglp.clip.Attention whose queries, keys and values (q, k, v) gain what low-rank maps add."""

    def __init__(self, attention, maps):
        super().__init__()
        self.attention, self.maps = attention, maps
        self.attend, self.merge = attention.attend, attention.merge

    def project(self, x, queries):
        gains = self.maps["q"](queries), self.maps["k"](x), self.maps["v"](x)
        heads = self.attention.heads
        split = [gain.unflatten(-1, (heads, -1)).transpose(1, 2) for gain in gains]
        return [old + gain for old, gain in zip(self.attention.project(x, queries), split, strict=True)]


class AdaptedCLIP(PromptedCLIP):
    """Both towers with low-rank maps in each block, and the texts of BPE ids (C, L)."""

    frozen_images = False

    def __init__(self, clip, ids, rank, alpha, dropout):
        blocks = [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]
        widths = [len(block.ln_1.weight) for block in blocks]
        maps = [nn.ModuleDict({name: LowRank(w, rank, alpha, dropout) for name in "qkv"}) for w in widths]
        super().__init__(clip, nn.ModuleList(maps))  # which freezes what is in CLIP by now
        for block, of_block in zip(blocks, maps, strict=True):
            block.attn = AdaptedAttention(block.attn, of_block)
        self.register_buffer("ids", ids, persistent=False)

    def features(self, images):
        return self.clip.visual(images, self.local)

    def encode_text(self):
        return F.normalize(self.clip.encode_text(self.ids), dim=-1).unsqueeze(1)  # (C, 1, D)


@TRAINER_REGISTRY.register()
class CLIPLoRA(CLIPTrainer):
    """Low-Rank Few-Shot Adaptation of Vision-Language Models, https://arxiv.org/abs/2405.18541

    The low-rank product is scaled by alpha / r, as in LoRA (https://arxiv.org/abs/2106.09685).
    """

    NODE = "CLIPLORA"
    splits = False  # its dropout draws inside the towers

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.CLIPLORA = node = CN()
        node.RANK = 2  # r
        node.ALPHA = 1.0  # scale of the product, times r
        node.DROPOUT = 0.25  # share of the channels left out before the product, in training
        node.PREC = "amp"  # fp32, amp or fp16

    def check_cfg(self, cfg):
        node = cfg.TRAINER.CLIPLORA
        if node.RANK < 1 or not 0 <= node.DROPOUT < 1:
            given = f"{node.RANK} and {node.DROPOUT}"
            raise ValueError(f"TRAINER.CLIPLORA.RANK must be 1 or more and DROPOUT 0 to below 1, got {given}")

    def make_model(self, clip, names):
        node = self.node
        ids = tokenize(clip, names, ["a photo of a {}."])  # on every data set, as the paper's authors have it
        return AdaptedCLIP(clip, ids, node.RANK, node.ALPHA, node.DROPOUT)

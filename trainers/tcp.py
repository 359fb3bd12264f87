"""TCP: a learned context that tokens made from what CLIP knows of a class take over inside the text tower."""

import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY
from sotglp.prompted import AnchoredCLIP
from sotglp.prompts import encode_names
from sotglp.templates import template_of
from sotglp.trainer import CLIPTrainer


class ClassAwarePrompts(nn.Module):
    """Prompts whose context is replaced, before a block, by what a two-layer network makes of zero-shot text features.

    knowledge: these features, normalised (C, D).
    """

    def __init__(self, prompts, knowledge, block):
        super().__init__()
        _, n_ctx, width = prompts.context.shape
        joint = knowledge.shape[1]
        layers = nn.Linear(joint, joint // 4), nn.ReLU(), nn.Linear(joint // 4, n_ctx * width)
        self.prompts, self.embedding, self.block = prompts, nn.Sequential(*layers), block
        self.register_buffer("knowledge", knowledge, persistent=False)

    def forward(self, clip):
        """Normalised text features (C, 1, D)."""
        tokens = self.embedding(self.knowledge).unflatten(-1, self.prompts.context.shape[1:])  # (C, T, W)
        return self.prompts(clip, deep={self.block: tokens})


@TRAINER_REGISTRY.register()
class TCP(CLIPTrainer):
    """TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model, https://arxiv.org/abs/2311.18231"""

    NODE = "TCP"

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.TCP = node = CN()
        node.N_CTX = 4  # context tokens, unless CTX_INIT gives the words
        node.CTX_INIT = "a photo of a"  # words that the context starts from; random if empty
        node.BLOCK = 8  # of the text tower, from 0, before which class-aware tokens take the context's places
        node.W = 8.0  # weight of the distance 1 - cosine to the text features of the hand-written prompts
        node.PREC = "fp16"  # fp32, amp or fp16

    def make_model(self, clip, names):
        blocks = len(clip.transformer.resblocks)
        if not 0 <= self.node.BLOCK < blocks:
            raise ValueError(
                f"TRAINER.TCP.BLOCK must be 0 to {blocks - 1}, a block of the text tower: {self.node.BLOCK}"
            )
        anchor = encode_names(clip, names, [template_of(self.cfg.DATASET.NAME)])
        return AnchoredCLIP(clip, ClassAwarePrompts(self.shared_prompts(clip, names), anchor, self.node.BLOCK), anchor)

    def losses(self, match, targets, text):
        learned, anchor = text.float().unbind(dim=1)
        distance = 1 - F.cosine_similarity(learned, anchor).mean()
        return {**super().losses(match, targets, text), "kg": self.node.W * distance}

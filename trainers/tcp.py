"""TCP (arXiv 2311.18231): class-aware tokens replace a learned context inside the text tower.

A two-layer network maps a class's zero-shot text feature a_c to T tokens. Before block BLOCK they take the places of
the shared context. loss = CE + W * mean over classes of (1 - cos(t_c, a_c)), with the resulting text features t_c.
"""

import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY
from sotglp.prompted import AnchoredCLIP
from sotglp.toolbox.trainer import CLIPTrainer


class ClassAwarePrompts(nn.Module):
    """Prompts whose context is replaced, before a block, by tokens of a two-layer network.

    Args:
        prompts: shared by the classes.
        knowledge: normalised zero-shot text features (C, D), which the network maps to tokens.
        block: of the text tower, from 0.
    """

    def __init__(self, prompts, knowledge, block):
        super().__init__()
        _, n_ctx, width = prompts.context.shape
        joint = knowledge.shape[1]
        layers = nn.Linear(joint, joint // 4), nn.ReLU(), nn.Linear(joint // 4, n_ctx * width)
        self.prompts, self.embedding, self.block = prompts, nn.Sequential(*layers), block
        self.register_buffer("knowledge", knowledge, persistent=False)

    def forward(self, clip):
        """Return normalised text features (C, 1, D)."""
        tokens = self.embedding(self.knowledge).unflatten(-1, self.prompts.context.shape[1:])  # (C, T, W)
        return self.prompts(clip, deep={self.block: tokens})


@TRAINER_REGISTRY.register()
class TCP(CLIPTrainer):
    """TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model, https://arxiv.org/abs/2311.18231"""

    NODE = "TCP"
    DEFAULTS = dict(
        N_CTX=4,  # context tokens, unless CTX_INIT gives the words
        CTX_INIT="a photo of a",  # words that the context starts from; random if empty
        BLOCK=8,  # of the text tower, from 0; class-aware tokens take the context's places before it
        W=8.0,  # weight of the distance 1 - cosine to the text features of the hand-written prompts
        PREC="fp16",  # fp32, amp or fp16
    )
    RANGES = {"N_CTX": "[1, inf)", "BLOCK": "[0, inf)", "W": "[0, inf)"}

    def make_model(self, clip, names):
        blocks = len(clip.transformer.resblocks)
        if self.node.BLOCK >= blocks:
            raise ValueError(
                f"TRAINER.TCP.BLOCK must be 0 to {blocks - 1}, a block of the text tower: {self.node.BLOCK}"
            )
        anchor = self.zero_shot_text(clip, names)
        return AnchoredCLIP(clip, ClassAwarePrompts(self.shared_prompts(clip, names), anchor, self.node.BLOCK), anchor)

    def losses(self, match, targets, text):
        learned, anchor = text.float().unbind(dim=1)
        distance = 1 - F.cosine_similarity(learned, anchor).mean()
        return {**super().losses(match, targets, text), "kg": self.node.W * distance}

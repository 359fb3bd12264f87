"""Prompts in the first blocks of both towers: what MaPLe and PromptSRC share.

Letters: B images, C classes, D joint dimension, J blocks with prompts, T prompts of a block, W width of a tower.
"""

from collections.abc import Sequence

import torch
from torch import nn

from sotglp.clip import CLIP
from sotglp.interface import ImageFeatures
from sotglp.prompted import PromptedCLIP
from sotglp.prompts import Prompts, first_tokens, start_contexts
from sotglp.towers import ImageTower


class DeepPrompts(nn.Module):
    """Text prompts of the first J blocks. A method adds those of the image tower.

    Args:
        prompts: with the context of the text tower's first block.
        depth: J.

    Attributes:
        deep: text prompts (J - 1, T, W) of the next blocks.
    """

    def __init__(self, prompts: Prompts, depth: int) -> None:
        super().__init__()
        _, n_ctx, width = prompts.context.shape
        self.prompts, self.deep = prompts, random_prompts(depth - 1, n_ctx, width)

    def image_prompts(self) -> Sequence[torch.Tensor]:
        """Return the image tower's prompts (T, W) of each of its first blocks."""
        raise NotImplementedError


class DeepPromptedCLIP(PromptedCLIP):
    """CLIP with prompts in both towers: each of the first blocks has its own."""

    frozen_images = False
    clip: CLIP
    learned: DeepPrompts

    def features(self, images: torch.Tensor) -> ImageFeatures:
        """Return the class tokens (B, W), and None: patches are not read."""
        first, *deep = self.learned.image_prompts()
        tokens = self.clip.visual.embed(images)
        tokens = torch.cat([tokens, first.expand(len(images), -1, -1)], dim=1)
        class_token, _ = self.clip.visual.encode(tokens, deep=dict(enumerate(deep, start=1)))
        return class_token, None

    def encode_text(self) -> torch.Tensor:
        """Return normalised text features (C, 1, D)."""
        return self.learned.prompts(self.clip, deep=dict(enumerate(self.learned.deep, start=1)))


def first_context(clip: CLIP, names: Sequence[str], n_ctx: int, words: str) -> Prompts:
    """Return the prompts of class names with a shared context, the embeddings of the first ``n_ctx`` words.

    Further words stay fixed. Without words the context is random.

    Raises:
        ValueError: there are fewer words.
    """
    if not words:
        return Prompts(clip, names, start_contexts(clip, 1, n_ctx), "{}.")
    words = words.replace("_", " ")
    return Prompts(clip, names, first_tokens(clip, words, n_ctx)[None], f"{words} {{}}.", replaced=n_ctx)


def random_prompts(blocks: int, n_ctx: int, width: int) -> nn.Parameter:
    """Return prompts (blocks, T, W), normal with standard deviation 0.02."""
    return nn.Parameter(0.02 * torch.randn(blocks, n_ctx, width))


def check_depth(tower: CLIP | ImageTower, depth: int, key: str) -> None:
    """Check that a tower has at least ``depth`` blocks.

    Args:
        tower: the image tower, or CLIP itself for the text's.
        depth: number of blocks with prompts.
        key: of the configuration, for the error.

    Raises:
        ValueError: it has fewer.
    """
    blocks = len(tower.transformer.resblocks)
    if depth > blocks:
        raise ValueError(f"{key} must be 1 to {blocks}, the blocks of this CLIP's tower, got {depth}")

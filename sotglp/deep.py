"""Prompts in the first blocks of both towers: what MaPLe and PromptSRC share.

Letters: B images, C classes, D joint dimension, J blocks with prompts, T prompts of a block, W width of a tower.
"""

from collections.abc import Sequence

import torch
from torch import nn

from sotglp.clip import CLIP
from sotglp.prompted import PromptedCLIP
from sotglp.prompts import Prompts, start_contexts, with_stops
from sotglp.towers import ImageFeatures


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
        """Return the image tower's prompts (T, W) of each of the J blocks."""
        raise NotImplementedError


class DeepPromptedCLIP(PromptedCLIP):
    """CLIP with prompts in both towers: each of the first J blocks has its own."""

    frozen_images = False
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

    Without words the context is random.

    Raises:
        ValueError: there are fewer words.
    """
    context = start_contexts(clip, 1, n_ctx, words)[:, :n_ctx]
    if context.shape[1] < n_ctx:
        raise ValueError(f"the context {words!r} has {context.shape[1]} tokens, fewer than N_CTX {n_ctx}")
    return Prompts(clip, with_stops(names), context)


def random_prompts(blocks: int, n_ctx: int, width: int) -> nn.Parameter:
    """Return prompts (blocks, T, W), normal with standard deviation 0.02."""
    return nn.Parameter(0.02 * torch.randn(blocks, n_ctx, width))


def check_depth(clip: CLIP, depth: int, key: str) -> None:
    """Check that both towers have at least ``depth`` blocks.

    Args:
        clip: with the towers.
        depth: number of blocks with prompts.
        key: of the configuration, for the error.

    Raises:
        ValueError: a tower has fewer.
    """
    blocks = min(len(clip.visual.transformer.resblocks), len(clip.transformer.resblocks))
    if depth > blocks:
        raise ValueError(f"{key} must be 1 to {blocks}, the blocks of this CLIP's smaller tower, got {depth}")

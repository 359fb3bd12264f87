"""Prompts in the first blocks of both towers: what MaPLe and PromptSRC share.

Letters: J blocks with prompts, T prompts of a block.
"""

import torch

from sotglp.prompted import PromptedCLIP
from sotglp.prompts import Prompts, start_contexts, with_stops


class DeepPromptedCLIP(PromptedCLIP):
    """Prompts of both towers, which the first J blocks each have anew.

    learned: has ``prompts``, a Prompts with the context of the text tower's first block, ``deep``, the text prompts
    (J - 1, T, W) of the next blocks, and ``image_prompts()``, of each of the J blocks (T, W of the image tower).
    """

    frozen_images = False

    def features(self, images):
        """Class tokens (B, W), and None: patches are not read."""
        first, *deep = self.learned.image_prompts()
        tokens = self.clip.visual.embed(images)
        tokens = torch.cat([tokens, first.expand(len(images), -1, -1)], dim=1)
        class_token, _ = self.clip.visual.encode(tokens, deep=dict(enumerate(deep, start=1)))
        return class_token, None

    def encode_text(self):
        return self.learned.prompts(self.clip, deep=dict(enumerate(self.learned.deep, start=1)))


def first_context(clip, names, n_ctx, words):
    """Prompts of class names with a shared context of the embeddings of the first ``n_ctx`` words.

    Raises ValueError if there are fewer words.
    """
    context = start_contexts(clip, 1, n_ctx, words)[:, :n_ctx]
    if context.shape[1] < n_ctx:
        raise ValueError(f"the context {words!r} has {context.shape[1]} tokens, fewer than N_CTX {n_ctx}")
    return Prompts(clip, with_stops(names), context)


def random_prompts(blocks, n_ctx, width):
    """Prompts (blocks, T, W), normal with standard deviation 0.02."""
    return torch.nn.Parameter(0.02 * torch.randn(blocks, n_ctx, width))


def check_depth(clip, depth, key):
    """Raise ValueError unless both towers have as many blocks."""
    blocks = min(len(clip.visual.transformer.resblocks), len(clip.transformer.resblocks))
    if not 1 <= depth <= blocks:
        raise ValueError(f"{key} must be 1 to {blocks}, the blocks of this CLIP's smaller tower, got {depth}")

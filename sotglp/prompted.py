"""A frozen CLIP with prompts learned beside it: what SOT-GLP and the methods it is compared with share."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sotglp.matching import mean_similarities, similarities


class Similarities(NamedTuple):
    """Cosines of a batch of images with the prompts, before CLIP's logit scale."""

    g: torch.Tensor  # (B, C, M) of the images
    s: torch.Tensor | None  # (B, P, C) of their patches, where they are read, averaged over the M prompts


class PromptedCLIP(nn.Module):
    """Images against text features of prompts.

    clip: frozen here. learned: the module that is trained, ``learned(clip)`` giving normalised text features (C, M, D).
    local: the stream of patch tokens that is read (``sotglp.clip.STREAMS``), or None.
    frozen_images: whether ``features`` stay the same while ``learned`` learns, so that they can be kept.
    """

    frozen_images = True

    def __init__(self, clip, learned, local=None):
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.learned = learned
        self.local = local

    def forward(self, images, text=None):
        """images (B, 3, S, S) -> ``match``. ``text`` spares encoding the prompts again while they stand still."""
        return self.match(self.features(images), self.encode_text() if text is None else text)

    @torch.no_grad()
    def features(self, images):
        """What the frozen image tower makes of images: class tokens (B, W) and patch tokens (B, P, W) or None."""
        return self.clip.visual(images, self.local)

    def encode_text(self):
        """Normalised text features (C, M, D)."""
        return self.learned(self.clip)

    def match(self, features, text):
        """Similarities of ``features`` and text features."""
        class_token, tokens = features
        g = similarities(self.to_joint(class_token), text)
        return Similarities(g, None if tokens is None else mean_similarities(self.to_joint(tokens), text))

    def to_joint(self, tokens, projection=None):
        """Tokens (..., W), through a bias-free linear layer if there is one, as normalised features (..., D)."""
        to_joint = self.clip.visual.proj
        if projection is not None:
            to_joint = projection.weight.T @ to_joint  # the two matrices first: there are more tokens than rows
        return F.normalize(tokens @ to_joint, dim=-1)

    @property
    def logit_scale(self):
        return self.clip.logit_scale.exp()


class AnchoredSimilarities(NamedTuple):
    """Similarities of the learned prompt, and those of the one that stands still."""

    g: torch.Tensor  # (B, C, 1)
    s: torch.Tensor | None  # (B, P, C)
    anchor: torch.Tensor  # (B, C)


class AnchoredCLIP(PromptedCLIP):
    """A prompt learned beside one that stands still: text features (C, 2, D), the learned ones first.

    anchor: normalised text features (C, D).
    """

    def __init__(self, clip, learned, anchor):
        super().__init__(clip, learned)
        self.register_buffer("anchor", anchor, persistent=False)

    def encode_text(self):
        return torch.stack([self.learned(self.clip)[:, 0], self.anchor], dim=1)

    def match(self, features, text):
        g, s = super().match(features, text[:, :1])
        anchor, _ = super().match((features[0], None), text[:, 1:])
        return AnchoredSimilarities(g, s, anchor[..., 0])


def identity_projection(clip):
    """A W x W matrix for patch tokens, as a layer without bias; at first the identity."""
    width = len(clip.visual.proj)
    layer = nn.Linear(width, width, bias=False)
    nn.init.eye_(layer.weight)
    return layer

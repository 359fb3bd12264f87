"""A frozen CLIP with prompts learned beside it: what SOT-GLP and the methods it is compared with share.

Letters: B images, P patches, C classes, M prompts of a class, W width of the image tower, D joint dimension.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sotglp.interface import Backbone, ImageFeatures
from sotglp.matching import Matched, mean_similarities, similarities
from sotglp.prompts import Prompts


class Similarities(NamedTuple):
    """Cosines of a batch of images with the prompts, before CLIP's logit scale."""

    g: torch.Tensor  # (B, C, M) of the images
    s: torch.Tensor | None  # (B, P, C) of their patches, if they are read, averaged over the M prompts


class PromptedCLIP(nn.Module):
    """Images against text features of prompts.

    A method with other text, or another comparison, overrides ``encode_text`` and ``match``.

    Args:
        clip: frozen here.
        learned: the module that is trained; ``learned(clip)`` returns normalised text features (C, M, D).
        local: the stream of patch tokens that is read, one of ``sotglp.interface.STREAMS``, or None.

    Attributes:
        frozen_images: whether ``features`` stay the same while ``learned`` learns, so that they can be kept.
        transport_plan: the function of the similarities that returns the plan, if a method has one.
    """

    frozen_images = True
    transport_plan: "partial[torch.Tensor] | None" = None

    def __init__(self, clip: Backbone, learned: nn.Module, local: str | None = None) -> None:
        super().__init__()
        clip.visual.check_stream(local)
        self.clip = clip.requires_grad_(False)
        self.learned = learned
        self.local = local

    def forward(self, images: torch.Tensor, text: Any = None) -> Matched:
        """Match images (B, 3, S, S) with the prompts.

        Args:
            images: resized and normalised.
            text: what ``encode_text`` returned before, to encode unchanged prompts only once.
        """
        return self.match(self.features(images), self.encode_text() if text is None else text)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> ImageFeatures:
        """Return the pooled tokens (B, W) of images (B, 3, S, S), and patch tokens (B, P, W) if ``local`` is set."""
        return self.clip.visual(images, self.local)

    def encode_text(self) -> Any:
        """Return normalised text features (C, M, D), or what else ``match`` takes."""
        return self.learned(self.clip)

    def match(self, features: ImageFeatures, text: Any) -> Matched:
        """Compare images with the prompts.

        Args:
            features: of ``features``.
            text: of ``encode_text``.
        """
        class_token, tokens = features
        g = similarities(self.to_joint(class_token), text)
        return Similarities(g, self.patch_cosines(tokens, text))

    def joint(self, features: ImageFeatures) -> ImageFeatures:
        """Return features as ``match`` compares them: normalised, of images (B, D) and of patches (B, P, D) if read."""
        class_token, tokens = features
        return self.to_joint(class_token), None if tokens is None else self.to_joint(tokens, self.projection)

    @property
    def projection(self) -> nn.Linear | None:
        """The learned layer on patch tokens, if a method has one."""
        return None

    @property
    def shared_prompts(self) -> Prompts | None:
        """The prompts of images, if classes share their context and nothing else makes the text."""
        learned = self.learned
        prompts = (
            learned["global_prompts"] if isinstance(learned, nn.ModuleDict) and "global_prompts" in learned else learned
        )
        return prompts if isinstance(prompts, Prompts) and prompts.context.dim() == 3 else None

    def patch_cosines(self, tokens: torch.Tensor | None, text: torch.Tensor) -> torch.Tensor | None:
        """Return the cosines (B, P, C) of patch tokens (B, P, W), if they are read, averaged over the M prompts."""
        return None if tokens is None else mean_similarities(self.to_joint(tokens), text)

    def to_joint(self, tokens: torch.Tensor, projection: nn.Linear | None = None) -> torch.Tensor:
        """Return tokens (..., W), through a linear layer without bias if given, as normalised features (..., D)."""
        first = None if projection is None else projection.weight
        return F.normalize(self.clip.visual.to_joint(tokens, first), dim=-1)

    @property
    def logit_scale(self) -> torch.Tensor:
        """The factor () of the cosines, exp of CLIP's parameter."""
        return self.clip.logit_scale.exp()


class AnchoredSimilarities(NamedTuple):
    """Cosines of the images with the learned prompt, and with the one that stands still."""

    g: torch.Tensor  # (B, C, 1)
    s: torch.Tensor | None  # (B, P, C) of the patches, if they are read, with the learned prompt
    anchor: torch.Tensor  # (B, C)


class AnchoredCLIP(PromptedCLIP):
    """A prompt learned beside one that stands still: text features (C, 2, D), the learned ones first.

    Args:
        clip: frozen here.
        learned: as in PromptedCLIP, with one prompt of a class.
        anchor: normalised text features (C, D) that stand still.
    """

    anchor: torch.Tensor

    def __init__(self, clip: Backbone, learned: nn.Module, anchor: torch.Tensor) -> None:
        super().__init__(clip, learned)
        self.register_buffer("anchor", anchor, persistent=False)

    def encode_text(self) -> torch.Tensor:
        return torch.stack([self.learned(self.clip)[:, 0], self.anchor], dim=1)

    def match(self, features: ImageFeatures, text: torch.Tensor) -> AnchoredSimilarities:
        class_token, tokens = features
        image = self.to_joint(class_token)
        g, anchor = similarities(image, text[:, :1]), similarities(image, text[:, 1:])
        return AnchoredSimilarities(g, self.patch_cosines(tokens, text[:, :1]), anchor[..., 0])


class ClassifiedCLIP(PromptedCLIP):
    """Fixed text features (C, D), and a classifier of image features beside them.

    Args:
        clip: frozen here.
        text: normalised text features (C, D).
        classifier: module (normalised image features (B, D)) -> logits (B, C), which are added to the scaled cosines.
    """

    text: torch.Tensor

    def __init__(self, clip: Backbone, text: torch.Tensor, classifier: nn.Module) -> None:
        super().__init__(clip, classifier)
        self.register_buffer("text", text, persistent=False)

    def encode_text(self) -> torch.Tensor:
        return self.text.unsqueeze(1)  # (C, 1, D)

    def match(self, features: ImageFeatures, text: torch.Tensor) -> Similarities:
        """Return Similarities with g (B, C, 1): cosines with the text, plus the logits over the logit scale."""
        class_token, tokens = features
        image = self.to_joint(class_token)
        g = similarities(image, text) + self.learned(image).unsqueeze(-1) / self.logit_scale
        return Similarities(g, self.patch_cosines(tokens, text))


def anchor_distance(text: torch.Tensor) -> torch.Tensor:
    """Return 1 - the cosine () of learned text features and those that stand still (C, 2, D), a mean over classes."""
    learned, anchor = text.float().unbind(dim=1)
    return 1 - F.cosine_similarity(learned, anchor).mean()


def identity_projection(clip: Backbone) -> nn.Linear:
    """Return a W x W matrix for patch tokens, as a layer without bias; at first the identity."""
    width = len(clip.visual.proj)
    layer = nn.Linear(width, width, bias=False)
    nn.init.eye_(layer.weight)
    return layer

"""Similarities, and the sparse support that all prompts of a class share (SOT-GLP, arXiv 2603.08347).

The similarities of all patches with all prompts (B, P, C, N) would not fit in memory. Patches are ranked by their
cosines with the mean of a class's text features, which is the mean of their cosines with the prompts. The prompts' own
similarities are computed for some classes at a time.

Letters: B images, P patches, C classes, G global prompts, N local prompts of a class, M prompts of either kind, K
patches of a support, D joint dimension.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch.utils.checkpoint import checkpoint

PART = 2**26  # similarities held at a time: 256 MiB in float32


class Matched(Protocol):
    """What every method's match has: what the OOD scores read."""

    @property
    def g(self) -> torch.Tensor | None:
        """Cosines (B, C, M) of the images with the prompts."""

    @property
    def s(self) -> torch.Tensor | None:
        """Cosines (B, P, C) of their patches with the prompts, averaged over those of a class."""


class Match(NamedTuple):
    """How a batch of images matches the prompts, before CLIP's logit scale.

    None stands for what a method does not have.
    """

    g: torch.Tensor | None  # (B, C, G) cosines of the image and the global prompts
    s: torch.Tensor | None  # (B, P, C) cosines of the patches and the local prompts, averaged over those of a class
    support: torch.Tensor | None  # (B, C, K) patches kept for each class; (B, C, K, N) if each prompt has its own
    plan: torch.Tensor | None  # (B, C, K, N) share of each kept patch that each local prompt takes
    l: torch.Tensor | None  # (B, C) local logits  # noqa: E741 (the paper's letter)


def similarities(features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the cosines (..., C, M) of normalised features (..., D) with normalised text features (C, M, D)."""
    return torch.einsum("...d,cmd->...cm", features, text)


def mean_similarities(patches: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the cosines (B, P, C) of patches (B, P, D) with text features (C, M, D), averaged over the M prompts."""
    return (text.mean(dim=1) @ patches.transpose(1, 2)).transpose(1, 2)  # so laid out, ranking reads P in one go


def sparse_support(s: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k patches of each image and class that are most similar to the mean of the class's prompts.

    Args:
        s: (B, P, C) of ``mean_similarities``.
        k: number of patches, K.

    Returns:
        Indices (B, C, K), best first: one support for all N prompts of a class.

    Raises:
        ValueError: k is not in 1..P.
    """
    if not 1 <= k <= s.shape[1]:
        raise ValueError(f"the support holds 1 to P = {s.shape[1]} patches of an image, not {k}")
    return s.transpose(1, 2).topk(k, dim=-1).indices


@torch.no_grad()
def own_support(patches: torch.Tensor, text: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k patches (B, P, D) most similar to each single prompt (C, N, D): indices (B, C, K, N), best first."""
    ranked = [similarities(patches, part).topk(k, dim=1).indices for part in in_parts(text, patches)]
    return torch.cat(ranked, dim=2).transpose(1, 2)


def on_support(patches: torch.Tensor, text: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Return the cosines (B, C, K, N) of the kept patches with each prompt of the class.

    Classes go in parts. If there are several parts, the backward pass computes each again. All patches of a part are
    multiplied, then the kept ones picked: on an H100 (B 256, P 196, C 1000, N 4, K 10, D 512, half precision) this took
    8 ms forward and backward. All classes at once took 6 ms, gathering the kept patches' features first 48 ms.

    Args:
        patches: normalised (B, P, D).
        text: normalised (C, N, D).
        support: indices (B, C, K) or (B, C, K, N).
    """
    support = support if support.dim() == 4 else support.unsqueeze(-1)
    parts = in_parts(text, patches)
    run: Callable[..., torch.Tensor] = pick
    if len(parts) > 1:
        run = partial(checkpoint, pick, use_reentrant=False, preserve_rng_state=False)
    places = support.split(len(parts[0]), dim=1)
    return torch.cat([run(patches, *part) for part in zip(parts, places, strict=True)], dim=1)


def pick(patches: torch.Tensor, text: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Return what ``on_support`` does, for all classes at once; support (B, C, K, 1) or (B, C, K, N)."""
    by_class = similarities(patches, text).transpose(1, 2)  # (B, C, P, N)
    # Unlike take_along_dim, gather lets an exported graph take any number of images.
    return by_class.gather(2, support.expand(-1, -1, -1, by_class.shape[-1]))


def in_parts(text: torch.Tensor, patches: torch.Tensor) -> Sequence[torch.Tensor]:
    """Split text features (C, N, D) by class, so that a part has at most PART similarities (B, P, C, N)."""
    size = max(PART // (patches.shape[0] * patches.shape[1] * text.shape[1]), 1)
    return text.split(size) if size < len(text) else [text]

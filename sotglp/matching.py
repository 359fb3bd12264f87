"""Similarities, and the sparse support that all prompts of a class share (SOT-GLP, arXiv 2603.08347).

Those of all patches with all prompts (B, P, C, N) are never held: patches are ranked by their cosines with the mean of
a class's text features, which is the mean of their cosines, and the prompts' own are formed for some classes at a time.
"""

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

PART = 2**26  # similarities held at a time: 256 MiB in float32


def similarities(features, text):
    """Cosines of normalised features (..., D) with normalised text features (C, M, D): (..., C, M)."""
    return torch.einsum("...d,cmd->...cm", features, text)


def mean_similarities(patches, text):
    """Those of patches (B, P, D) with text features (C, M, D), averaged over a class's M prompts: (B, P, C)."""
    return (text.mean(dim=1) @ patches.transpose(1, 2)).transpose(1, 2)  # so laid out, ranking reads P in one go


def sparse_support(s, k):
    """The k patches of each image and class whose similarity, averaged over the class's N prompts, is largest.

    s (B, P, C) of ``mean_similarities`` -> indices (B, C, K), best first. One support for all N prompts. Raises
    ValueError if k is not in 1..P.
    """
    if not 1 <= k <= s.shape[1]:
        raise ValueError(f"the support holds 1 to P = {s.shape[1]} patches of an image, not {k}")
    return s.transpose(1, 2).topk(k, dim=-1).indices


@torch.no_grad()
def own_support(patches, text, k):
    """The k patches most similar to each single prompt (C, N, D): indices (B, C, K, N), best first."""
    ranked = [similarities(patches, part).topk(k, dim=1).indices for part in in_parts(text, patches)]
    return torch.cat(ranked, dim=2).transpose(1, 2)


def on_support(patches, text, support):
    """s (B, C, K, N), cosines of the kept patches with each prompt of the class: support (B, C, K[, N]).

    Classes go in parts, which are formed again in the backward pass if there are several. All patches of a part are
    multiplied and the kept ones picked: on an H100 (B 256, P 196, C 1000, N 4, K 10, D 512, half precision) this took
    8 ms forward and backward, all classes at once 6 ms, and gathering the kept patches' features first 48 ms.
    """
    support = support if support.dim() == 4 else support.unsqueeze(-1)
    parts, run = in_parts(text, patches), pick
    if len(parts) > 1:
        run = partial(checkpoint, pick, use_reentrant=False, preserve_rng_state=False)
    places = support.split(len(parts[0]), dim=1)
    return torch.cat([run(patches, *part) for part in zip(parts, places, strict=True)], dim=1)


def pick(patches, text, support):
    by_class = similarities(patches, text).transpose(1, 2)  # (B, C, P, N)
    # Unlike take_along_dim, gather lets an exported graph take any number of images.
    return by_class.gather(2, support.expand(-1, -1, -1, by_class.shape[-1]))


def in_parts(text, patches):
    """Text features (C, N, D) split by class, so that the similarities (B, P, C, N) of a part are at most PART."""
    size = max(PART // (patches.shape[0] * patches.shape[1] * text.shape[1]), 1)
    return text.split(size) if size < len(text) else [text]

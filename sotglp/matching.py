"""Similarities, and the sparse support that all prompts of a class share (SOT-GLP, arXiv 2603.08347)."""

import torch


def similarities(features, text):
    """Cosines of normalised features (..., D) with normalised text features (C, M, D): (..., C, M)."""
    return torch.einsum("...d,cmd->...cm", features, text)


def sparse_support(s, k):
    """The k patches of each image and class whose similarity, averaged over the class's N prompts, is largest.

    s (B, P, C, N) -> indices (B, C, K), best first. One support for all N prompts. Raises ValueError if k is not
    in 1..P.
    """
    if not 1 <= k <= s.shape[1]:
        raise ValueError(f"the support holds 1 to P = {s.shape[1]} patches of an image, not {k}")
    return s.mean(dim=-1).topk(k, dim=1).indices.transpose(1, 2)


def own_support(s, k):
    """The k patches most similar to each single prompt: s (B, P, C, N) -> indices (B, C, K, N), best first."""
    return s.topk(k, dim=1).indices.transpose(1, 2)


def on_support(s, support):
    """The similarities (B, C, K, N) of the kept patches: s (B, P, C, N) at the indices support (B, C, K[, N])."""
    support = support if support.dim() == 4 else support.unsqueeze(-1)
    return s.transpose(1, 2).take_along_dim(support, dim=2)

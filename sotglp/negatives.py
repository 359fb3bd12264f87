"""NegLabel (ICLR 2024, arXiv 2403.20078): an out-of-distribution score against words that name none of the classes.

An image of a class is nearer to the class names than to far words, any other image may not be. The score needs text
features alone, so it works on zero-shot CLIP and on learned prompts. The words themselves are the caller's: the authors
take 10,000 nouns and adjectives of WordNet.

Letters: B images, C classes, n candidate words, M negatives, D joint dimension.
"""

import torch


def choose_negatives(
    candidates: torch.Tensor, classes: torch.Tensor, quantile: float = 0.95, share: float = 0.15
) -> torch.Tensor:
    """Return the words that are furthest from all classes: indices (int(share * n),), furthest first.

    A word is as near as the given quantile of its cosines with the classes. As the authors' code, call it for nouns and
    for adjectives apart.

    Args:
        candidates: normalised text features (n, D) of words.
        classes: normalised text features (C, D) of class names.
        quantile: from 0 to 1; 1 is the nearest class, which a single odd class name decides.
        share: of the words that are kept.
    """
    nearness = torch.quantile(candidates @ classes.T, quantile, dim=1)
    return nearness.argsort(stable=True)[: int(share * len(candidates))]


def shuffled(n: int, seed: int | None) -> torch.Tensor:
    """Return a permutation (n,) that the seed alone decides, on every device; the plain order without a seed."""
    return torch.arange(n) if seed is None else torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def neg_label(
    positives: torch.Tensor,
    negatives: torch.Tensor,
    n_groups: int | None = 100,
    tau: float = 0.01,
    seed: int | None = 0,
) -> torch.Tensor:
    """Return the NegLabel score (B,): the larger, the more out-of-distribution.

    It is minus the share that the classes take in the softmax over classes and negatives. The negatives are dealt out
    to groups, and the shares against each group are averaged. The last M mod n_groups negatives are left out.

    Args:
        positives: cosines (B, C) of images and classes.
        negatives: cosines (B, M) of images and negatives.
        n_groups: None: all negatives at once. With 1, the authors' code has no softmax, and so has this: it returns
            minus the sum of the scaled positives.
        tau: softmax temperature of the cosines.
        seed: of the order in which negatives are dealt out, the same at each call; None: as they are.

    Raises:
        ValueError: there are no groups, or more than negatives.
    """
    positives, negatives, n = positives.float() / tau, negatives.float() / tau, negatives.shape[1]
    if n_groups == 1:
        return -positives.sum(dim=1)
    n_groups = 1 if n_groups is None else n_groups
    if not 1 <= n_groups <= n:
        raise ValueError(f"{n} negatives are dealt out to 1 to {n} groups, not {n_groups}")
    order = shuffled(n - n % n_groups, seed).to(negatives.device)
    groups = negatives[:, order].unflatten(1, (n_groups, -1)).logsumexp(dim=2)  # (B, groups)
    classes = positives.logsumexp(dim=1, keepdim=True)
    return -(classes - groups).sigmoid().mean(dim=1)

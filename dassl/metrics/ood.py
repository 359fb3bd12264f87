"""How well a score separates out-of-distribution (OOD) images from in-distribution ones.

A larger score means more out-of-distribution. Only the order of scores counts.
"""

import numpy as np


def auroc(in_distribution, out):
    """Return the area under the ROC curve in %.

    It is the share of pairs of an in-distribution and an OOD image in which the OOD image has the larger score. A tie
    counts half, so a constant score has 50.

    Args:
        in_distribution: (N,) scores of in-distribution images, finite.
        out: (M,) scores of OOD images, finite.

    Raises:
        ValueError: One of them is empty, has not one dimension, or holds a NaN or infinity.
    """
    from sklearn.metrics import roc_auc_score  # here, because it takes a second

    in_distribution, out = check(in_distribution, "in-distribution"), check(out, "OOD")
    is_out = np.repeat([0, 1], [len(in_distribution), len(out)])
    return 100 * float(roc_auc_score(is_out, np.concatenate([in_distribution, out])))


def fpr_at_95(in_distribution, out):
    """Return the false positive rate at 95 % true positives, in %; in-distribution is the positive class.

    It is the share of the OOD images at or below `threshold_at_95`. Arguments and errors are those of `auroc`.
    """
    out = check(out, "OOD")
    return 100 * float(np.mean(out <= threshold_at_95(in_distribution)))


def threshold_at_95(in_distribution):
    """Return the smallest score that at least 95 % of the in-distribution images do not exceed.

    Argument and errors are those of `auroc`.
    """
    in_distribution = check(in_distribution, "in-distribution")
    kept = -(-95 * len(in_distribution) // 100)  # rounded up
    return np.sort(in_distribution)[kept - 1]


def check(scores, what):
    """Return scores as an array; raise ValueError as `auroc` does, naming `what` they are."""
    scores = np.asarray(scores)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"{what} scores must be a list of one or more finite numbers, got shape {scores.shape}")
    return scores

"""How well a score tells images of other kinds (OOD) from in-distribution ones.

Everywhere here the larger score is the more out-of-distribution, and only the order of scores counts.
"""

import numpy as np
from sklearn.metrics import roc_auc_score


def auroc(in_distribution, out):
    """Share of pairs of an in-distribution and an OOD image in which the OOD image has the larger score, in %.

    A tie is half a pair, so that a score that tells nothing has 50.

    Args:
        in_distribution, out: (N,) and (M,) scores, array-likes of finite numbers.

    Raises:
        ValueError: one of them is empty, not a list of numbers, or holds a NaN or infinity.
    """
    in_distribution, out = check(in_distribution, "in-distribution"), check(out, "OOD")
    is_out = np.repeat([0, 1], [len(in_distribution), len(out)])
    return 100 * float(roc_auc_score(is_out, np.concatenate([in_distribution, out])))


def fpr_at_95(in_distribution, out):
    """False positive rate at 95 % true positives, in %, where in-distribution is the positive class.

    The rate is the share of the OOD images at or below ``threshold_at_95``.

    Args, Raises: as ``auroc``.
    """
    out = check(out, "OOD")
    return 100 * float(np.mean(out <= threshold_at_95(in_distribution)))


def threshold_at_95(in_distribution):
    """The smallest score that keeps at least 95 % of the in-distribution images, those at or below it.

    Args, Raises: as ``auroc``.
    """
    in_distribution = check(in_distribution, "in-distribution")
    kept = -(-95 * len(in_distribution) // 100)  # rounded up, in whole numbers
    return np.sort(in_distribution)[kept - 1]


def check(scores, what):
    scores = np.asarray(scores)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"{what} scores must be one or more finite numbers in a row, got shape {scores.shape}")
    return scores

"""How far our numbers are from a reference, and how far they may be."""

from typing import NamedTuple

import numpy as np

# Relative to the largest magnitude; of a parameter, to its largest change in training.
LOGITS, GRADIENTS, CHANGES = 1e-4, 1e-3, 1e-2
HALF = 100  # times as much in mixed precision
NOISE = 10  # times what rounding noise in the start values moves


class Row(NamedTuple):
    """The largest error of a quantity, the same relative to the reference's magnitude, and what is allowed of this."""

    quantity: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self):
        return self.relative <= self.tolerance


def tolerance(quantity, reference):
    """Return the allowed error of a quantity, relative to its magnitude; whole numbers must be equal."""
    if reference.dtype.kind in "iub":
        return 0.0
    return GRADIENTS if "grad" in quantity else LOGITS


def compare(quantity, ours, reference, start=None, noise=0.0, factor=1, allowed=None):
    """Return the Row of a quantity. Arrays of other shapes differ infinitely, and so does NaN.

    Args:
        quantity: its name.
        ours, reference: arrays.
        start: array of a parameter before training: errors are relative to its largest change.
        noise: what rounding noise moves in the reference.
        factor: by which the tolerance is looser.
        allowed: tolerance instead of the usual one.
    """
    allowed = allowed or (CHANGES if start is not None else tolerance(quantity, np.asarray(reference)))
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        return Row(f"{quantity} {reference.shape}, ours {ours.shape}", np.inf, np.inf, allowed)
    absolute = float(np.nan_to_num(np.abs(ours - reference), nan=np.inf).max(initial=0))
    magnitude = float(np.abs(reference if start is None else reference - start).max(initial=0)) or 1.0
    return Row(quantity, absolute, absolute / magnitude, factor * max(allowed, NOISE * noise / magnitude))


def worst(rows):
    """Return the row that is furthest beyond its tolerance, or else nearest to it."""
    return max(rows, key=lambda row: row.relative / (row.tolerance or 1e-12))

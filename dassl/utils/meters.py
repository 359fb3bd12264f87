"""Running averages of numbers."""

from collections import defaultdict

import torch


class AverageMeter:
    """The last value and the average of those seen.

    Args:
        ema: average exponentially, 0.9 old and 0.1 new, instead of over all values.
    """

    def __init__(self, ema=False):
        self.ema = ema
        self.reset()

    def reset(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        """Add a value (a number or a tensor of one element) that stands for `n` samples."""
        self.val = val.item() if isinstance(val, torch.Tensor) else val
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / self.count


class MetricMeter:
    """Averages by name; its text is `name value (average)` for each."""

    def __init__(self, delimiter=" "):
        self.meters = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, values):
        """Add a dict {name: value}; None adds nothing."""
        if values is None:
            return
        if not isinstance(values, dict):
            raise TypeError(f"a dict of numbers is needed, got {type(values).__name__}")
        for name, value in values.items():
            self.meters[name].update(value)

    def __str__(self):
        return self.delimiter.join(f"{n} {m.val:.4f} ({m.avg:.4f})" for n, m in self.meters.items())

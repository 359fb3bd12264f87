"""Running averages of numbers."""

from collections import defaultdict


class AverageMeter:
    """The last value, and the average of all values.

    Args:
        ema: Average exponentially, 0.9 of the old average and 0.1 of the new value.

    Attributes:
        val: The last value.
        avg: The average.
        sum: The sum over all samples.
        count: The number of samples.
    """

    def __init__(self, ema=False):
        self.ema = ema
        self.reset()

    def reset(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        """Add a value, a number or a tensor of one element, as the average of `n` samples."""
        self.val = val.item() if hasattr(val, "item") else val
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / self.count


class MetricMeter:
    """Averages by name; as a string, "name value (average)" for each of them.

    Args:
        delimiter: What separates them.
    """

    def __init__(self, delimiter=" "):
        self.meters = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, values):
        """Add a dict {name: value}; None adds nothing.

        Raises:
            TypeError: `values` is something else.
        """
        if values is None:
            return
        if not isinstance(values, dict):
            raise TypeError(f"values must be a dict {{name: number}}, got {type(values).__name__}")
        for name, value in values.items():
            self.meters[name].update(value)

    def __str__(self):
        return self.delimiter.join(f"{n} {m.val:.4f} ({m.avg:.4f})" for n, m in self.meters.items())

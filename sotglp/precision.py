"""Mixed precision as the field's trainers name it, and gradients that repeat."""

from contextlib import contextmanager

import torch

from sotglp import parallel

PRECISIONS = ("fp32", "amp", "fp16")


class MixedPrecision:
    """float16 autocast with loss scaling for ``amp`` and ``fp16`` on CUDA; float32 everywhere else.

    Parameters stay in float32, which ``fp16`` names too: half-precision masters lose small updates.
    Raises ValueError for another name.
    """

    def __init__(self, name, device):
        if name not in PRECISIONS:
            raise ValueError(f"the precision (PREC) is {', '.join(PRECISIONS)}, not {name!r}")
        self.device_type = torch.device(device).type
        self.skipped = 0  # steps whose gradients overflowed
        self.enabled = name != "fp32" and self.device_type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.enabled)
        if name != "fp32" and not self.enabled:
            print(f"Precision {name} is for CUDA: on {self.device_type} the run computes in float32")

    def autocast(self):
        return torch.autocast(self.device_type, torch.float16, enabled=self.enabled)

    def backward(self, loss, optimizer):
        """Gradients of ``loss``, and their norm; 1 where the scaler looks after what is not finite."""
        optimizer.zero_grad()
        with repeatable():
            self.scaler.scale(loss).backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        parallel.average_gradients(parameters)
        return torch.ones(()) if self.enabled else torch.nn.utils.get_total_norm([p.grad for p in parameters])

    def step(self, optimizer):
        """A step of the optimizer, which the scaler leaves out, and counts, where gradients overflowed."""
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale


@contextmanager
def repeatable():
    """For a backward pass, where the run is to repeat (torch.use_deterministic_algorithms).

    On a GPU attention takes the algorithm that repeats only if others are errors, not warnings.
    """
    wanted = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(wanted, warn_only=warn_only)

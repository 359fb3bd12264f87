"""Mixed precision by the names that the field's trainers use, and repeatable gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sotglp import parallel

PRECISIONS = ("fp32", "amp", "fp16", "bf16")


class MixedPrecision:
    """Autocast: bfloat16 for ``bf16``, float16 with loss scaling for ``amp`` and ``fp16`` on CUDA; else float32.

    On MPS, all is float32.

    Parameters stay in float32 even with ``fp16``: half-precision parameters lose small updates. bfloat16 has float32's
    range, so its gradients need no scaling.

    Args:
        name: one of PRECISIONS.
        device: of the model.

    Attributes:
        enabled: whether half precision is used.
        skipped: steps that were left out because gradients overflowed.

    Raises:
        ValueError: another name.
    """

    def __init__(self, name: str, device: torch.device | str) -> None:
        if name not in PRECISIONS:
            raise ValueError(f"the precision (PREC) must be one of {', '.join(PRECISIONS)}, not {name!r}")
        self.device_type = torch.device(device).type
        self.skipped = 0
        self.dtype = torch.bfloat16 if name == "bf16" else torch.float16
        halves = {"cuda": PRECISIONS[1:], "mps": ()}.get(self.device_type, ("bf16",))
        self.enabled = name in halves
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.enabled and name != "bf16")
        if name != "fp32" and not self.enabled:
            print(f"Precision {name} is not for {self.device_type}: the run computes in float32")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device_type, self.dtype, enabled=self.enabled)

    def backward(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Compute the gradients of a loss.

        Returns:
            Their norm (), for a check that they are finite; 1 in float16, where the scaler does this check.
        """
        optimizer.zero_grad()
        with repeatable():
            self.scaler.scale(loss).backward()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        parallel.average_gradients(gradients)
        return torch.ones(()) if self.scaler.is_enabled() else torch.nn.utils.get_total_norm(gradients)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take a step of the optimizer, or skip and count it if gradients overflowed."""
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale


@contextmanager
def repeatable() -> Iterator[None]:
    """Make a backward pass repeatable if torch.use_deterministic_algorithms is on.

    On a GPU attention takes the repeatable algorithm only if others are errors, not warnings.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(enabled)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)

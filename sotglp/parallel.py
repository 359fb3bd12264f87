"""Several processes that train as one (torch.distributed).

All processes have the same weights, batches and random numbers, and compute the same loss. Only the towers, which cost
most time, are split: each process encodes its share of the images and of the prompts, and ``gather`` puts the shares
together.

In the backward pass ``gather`` gives a process its own share of the gradient, times the number of processes. The mean
of all processes' gradients (``average_gradients``) then equals that of one process alone. It holds for every parameter:
for those before a ``gather`` the shares add up, for those behind it all processes have the same gradient.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


class _State:
    split = True


def split(enabled: bool) -> None:
    """Choose whether processes share out the work from now on; if not, each does all of it.

    A method must not be split if it draws random numbers inside a tower, or changes gradients by more than sums.
    """
    _State.split = enabled


def size() -> int:
    """Return how many processes share out the work."""
    return distributed.get_world_size() if distributed.is_initialized() and _State.split else 1


def rank() -> int:
    """Return which of them this process is, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def share(n: int) -> tuple[int, int]:
    """Return the (start, stop) of this process among n things; with more processes than things, the last get none."""
    if size() == 1:
        return 0, n
    length = -(-n // size())  # of all but the last ones
    start = min(rank() * length, n)
    return start, min(start + length, n)


def is_first() -> bool:
    """Return whether this process is the first of those that share out the work."""
    return rank() == 0


def agree(value: T) -> T:
    """Return the first process's value, in all of them."""
    values = [value]
    if size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Raise an OSError or a ValueError of the block in all processes, if any of them has one."""
    errors: list[Exception | None] = [None]
    try:
        yield
    except (OSError, ValueError) as error:
        errors = [error]
    if size() > 1:
        own, errors = errors[0], [None] * size()
        distributed.all_gather_object(errors, own)
    for failure in filter(None, errors):
        raise failure


def gather(x: torch.Tensor, n: int, dim: int = 0) -> torch.Tensor:
    """Return all n rows along a dimension, of which each process has its ``share``, x."""
    return x if size() == 1 else _Gather.apply(x, n, dim)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, n: int, dim: int) -> torch.Tensor:
        ctx.n, ctx.dim = n, dim
        x = x.movedim(dim, 0)
        padded = x.new_zeros(-(-n // size()), *x.shape[1:])
        padded[: len(x)] = x
        shares = [torch.empty_like(padded) for _ in range(size())]
        distributed.all_gather(shares, padded)
        return torch.cat(shares)[:n].movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        start, stop = share(ctx.n)
        return size() * gradient.narrow(ctx.dim, start, stop - start), None, None


def average_gradients(gradients: Iterable[torch.Tensor]) -> None:
    """Replace each gradient, in place, by its mean over all processes."""
    if size() > 1:
        for gradient in gradients:
            distributed.all_reduce(gradient)
            gradient /= size()

"""Several processes that train as one (torch.distributed): each encodes its share, and has all that they encode.

All processes have the same weights, batches and random numbers, and compute the same loss. What costs time, the towers,
is split: each process runs its share of the images and of the prompts, and `gather` puts the shares together.
Backward, `gather` gives a process its own share of the gradient, times the number of processes. So the mean of all
processes' gradients (`average_gradients`) is that of one process alone, wherever a parameter stands: before a `gather`
the shares add up, behind it all have the same gradient.
"""

import contextlib

import torch
from torch import distributed


class _State:
    split = True


def split(wanted):
    """Whether processes share out the work from now on; without it, each computes all of it.

    What draws random numbers inside a tower, or changes gradients by more than sums, must not be split.
    """
    _State.split = wanted


def size():
    """How many processes share out the work."""
    return distributed.get_world_size() if distributed.is_initialized() and _State.split else 1


def share(n):
    """The (start, stop) of this process among n things; nothing for the last of more processes."""
    if size() == 1:
        return 0, n
    length = -(-n // size())  # of all but the last ones
    start = min(distributed.get_rank() * length, n)
    return start, min(start + length, n)


def is_first():
    """Whether this process is the first of those that share out the work."""
    return size() == 1 or distributed.get_rank() == 0


def agree(value):
    """What the first process has, in all."""
    values = [value]
    if size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


@contextlib.contextmanager
def failing_together():
    """A block whose OSError, in any process, is raised in all."""
    errors = [None]
    try:
        yield
    except OSError as error:
        errors = [error]
    if size() > 1:
        own, errors = errors[0], [None] * size()
        distributed.all_gather_object(errors, own)
    for error in filter(None, errors):
        raise error


def gather(x, n, dim=0):
    """The n rows of which each process has its `share` (x), along a dimension."""
    return x if size() == 1 else _Gather.apply(x, n, dim)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, n, dim):
        ctx.n, ctx.dim = n, dim
        x = x.movedim(dim, 0)
        padded = x.new_zeros(-(-n // size()), *x.shape[1:])
        padded[: len(x)] = x
        shares = [torch.empty_like(padded) for _ in range(size())]
        distributed.all_gather(shares, padded)
        return torch.cat(shares)[:n].movedim(0, dim)

    @staticmethod
    def backward(ctx, gradient):
        start, stop = share(ctx.n)
        return size() * gradient.narrow(ctx.dim, start, stop - start), None, None


def average_gradients(parameters):
    """Give each parameter, all of which have one, the mean of its gradients in all processes."""
    if size() > 1:
        for parameter in parameters:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= size()

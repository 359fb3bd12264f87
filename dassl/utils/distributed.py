"""Several processes of torchrun that train as one run. The first of them writes and prints.

Functions import torch, so that commands answer --help without it.
"""

import contextlib
import os
import sys


def world_size():
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else 1


def is_main():
    """Return whether this process writes and prints."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def process_group():
    """Connect the processes of torchrun while the block runs; only the first one prints."""
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_main() else nowhere):
        try:
            yield
        finally:
            distributed.destroy_process_group()


def wait_for_all():
    """Wait until all processes get here."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()


def same_seed():
    """Return a random seed that all processes share."""
    import torch
    from torch import distributed

    seed = [torch.seed() % 2**31]
    distributed.broadcast_object_list(seed)
    return seed[0]

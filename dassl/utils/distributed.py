"""Several processes, started by torchrun, that are one run: the first of them writes and speaks."""

import contextlib
import os
import sys

import torch
from torch import distributed


def world_size():
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else 1


def is_main():
    """Whether this is the process that writes."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def process_group():
    """Join the processes that torchrun has started while the block runs; all but the first are silent."""
    if world_size() == 1:
        yield
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_main() else nowhere):
        try:
            yield
        finally:
            distributed.destroy_process_group()


def wait_for_all():
    """Until every process is here."""
    if world_size() > 1:
        distributed.barrier()


def same_seed():
    """A random seed that all processes share."""
    seed = [torch.seed() % 2**31]
    distributed.broadcast_object_list(seed)
    return seed[0]

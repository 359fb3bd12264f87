"""How much memory a training step may take."""

import ctypes
import sys

import torch


def memory_budget(gib: float, device: torch.device | str) -> int:
    """Return how many bytes the text tower may keep for the backward pass.

    Args:
        gib: so many GiB; 0 takes half of what is free now, and leaves the rest to images and similarities.
        device: that the training runs on.
    """
    return int(gib * 2**30) if gib else free_memory(torch.device(device)) // 2


def free_memory(device: torch.device) -> int:
    """Return how many bytes are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = dict(line.split(":") for line in file)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except FileNotFoundError:  # not Linux
        import psutil

        return psutil.virtual_memory().available


def give_back() -> None:
    """Return freed memory to the system: glibc keeps it where small pieces in use lie between."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:  # other C libraries have none
        trim(0)

"""How much memory a training step may take."""

import ctypes

import torch


def memory_budget(gib, device):
    """Bytes for what the text tower keeps for the backward pass: so many GiB, or, with 0, half of what is free now.

    The other half is for images and similarities. Raises ValueError for a negative number.
    """
    if gib < 0:
        raise ValueError(f"TRAINER.MEMORY_BUDGET is in GiB, from 0 (half of what is free), not {gib}")
    return int(gib * 2**30) if gib else free_memory(torch.device(device)) // 2


def free_memory(device):
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo", encoding="ascii") as file:
        sizes = dict(line.split(":") for line in file)
    return int(sizes["MemAvailable"].split()[0]) * 1024


def give_back():
    """Give the system what this process has freed, which glibc keeps where small pieces that stay lie between."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim:
        trim(0)

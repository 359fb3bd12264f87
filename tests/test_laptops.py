"""What runs where Linux's parts of Python and Apple's or NVIDIA's GPUs are missing (docs/laptops.md)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dassl.engine.simple import choose_device
from sotglp.precision import MixedPrecision

ROOT = Path(__file__).parents[1]
# What Windows lacks is taken from Python. What stands there instead, msvcrt and psutil, has a stand-in.
WITHOUT_LINUX = """
import builtins, io, os, signal, subprocess, sys, types
held, msvcrt = [], types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.locking = 2, lambda handle, how, number: held.append((how, number))
memory = types.SimpleNamespace(peak_wset=2**30, available=2**32)
psutil = types.ModuleType("psutil")
psutil.Process, psutil.virtual_memory = lambda: types.SimpleNamespace(memory_info=lambda: memory), lambda: memory
sys.modules.update(fcntl=None, resource=None, msvcrt=msvcrt, psutil=psutil)
del os.sched_getaffinity, signal.SIGHUP
read = builtins.open
def no_proc(path, *arguments, **options):
    if str(path).startswith("/proc"):
        raise FileNotFoundError(path)
    return read(path, *arguments, **options)
builtins.open = io.open = no_proc
import train
code = train.main(sys.argv[1:])
assert held == [(2, 1)]
sys.exit(code)
"""


def test_a_run_needs_nothing_that_linux_alone_has(tmp_path):
    generator = np.random.default_rng(0)
    for name, colour in {"red": (200, 30, 30), "blue": (30, 30, 200)}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.clip(generator.normal(colour, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    words = ["--trainer", "SOTGLP", "--root", "pictures", "--output-dir", "out", "--seed", "1", "--backbone", "small"]
    pairs = ["DATASET.NAME", "ImageFolder", "OPTIM.MAX_EPOCH", "1", "INPUT.FEATURE_CACHE", "features"]
    command = [sys.executable, "-c", WITHOUT_LINUX, *words, *pairs]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"process": 1.0' in (tmp_path / "out" / "results.json").read_text()


@pytest.mark.parametrize("cuda, mps, expected", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_apples_gpu_is_used_in_full_precision(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device().type == expected and choose_device(use_gpu=False).type == "cpu"
    if expected == "mps":
        assert not any(MixedPrecision(name, expected).enabled for name in ("fp32", "amp", "fp16", "bf16"))
        with MixedPrecision("amp", expected).autocast():
            assert not torch.is_autocast_enabled("mps")

"""Runs that are killed, or cannot write, end as if nothing had happened once they are started again."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import conftest  # noqa: F401 (registers the data set and the trainer, in the children too)
import pytest
import torch
from processes import wait_for

from dassl.utils import load_checkpoint, saved_names
from train import main

# Children are forked from a process that has imported everything, and has never run a thread.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["conftest", "train"])
TINY = [
    *("--trainer", "Tiny", "--seed", "1", "DATASET.NAME", "Squares", "INPUT.SIZE", "(8, 8)", "OPTIM.MAX_EPOCH", "3"),
    *("INPUT.TRANSFORMS", "['random_resized_crop', 'random_flip', 'cutout', 'normalize']", "INPUT.CUTOUT_LEN", "3"),
    *("DATALOADER.TRAIN_X.BATCH_SIZE", "5", "OPTIM.NAME", "sgd", "OPTIM.LR", "0.02", "OPTIM.LR_SCHEDULER", "cosine"),
]
SOTGLP = [
    *("--config-file", "configs/backbones/small.yaml", "--config-file", "configs/trainers/SOTGLP/default.yaml"),
    *("--trainer", "SOTGLP", "--seed", "1", "DATASET.NAME", "Squares", "DATALOADER.TRAIN_X.BATCH_SIZE", "9"),
    *("OPTIM.MAX_EPOCH", "2", "TRAINER.SOTGLP.N_LOCAL", "2"),
]
# Saved at each step, so that many kills meet a save; validated after each epoch.
OFTEN = ["TRAIN.CHECKPOINT_MINUTES", "1e-9", "TEST.FINAL_MODEL", "best_val"]
RUNS = {
    "no workers": [*TINY, *OFTEN, "DATALOADER.NUM_WORKERS", "0"],
    "workers": [*TINY, *OFTEN, "DATALOADER.NUM_WORKERS", "2"],
    "on signals only": [*TINY, "DATALOADER.NUM_WORKERS", "0"],
    "SOT-GLP": [*SOTGLP, *OFTEN, "DATALOADER.NUM_WORKERS", "0"],
}


def run(arguments, log):
    """What the program does, in a process whose output goes to a file."""
    torch.set_num_threads(1)
    with open(log, "a", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        os._exit(main(arguments))


@pytest.fixture
def start(squares_root, tmp_path, monkeypatch):
    """Function (kind of run, folder) -> its process."""
    monkeypatch.chdir(Path(__file__).parent.parent)

    def start(kind, folder):
        first, *pairs = RUNS[kind], "DATASET.ROOT", str(squares_root), "OUTPUT_DIR", str(folder)
        process = CONTEXT.Process(target=run, args=([*first, *pairs], tmp_path / "log.txt"))
        process.start()
        return process

    yield start
    for process in multiprocessing.active_children():
        process.kill()


def finish(process):
    process.join(120)
    return process.exitcode


def outcome(folder):
    """All that a run has learned and measured, and where its random generators stand."""
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    checkpoints = [load_checkpoint(str(folder / path / saved_names(folder / path)[0])) for path in models(folder)]
    return metrics, checkpoints


def models(folder):
    return sorted(path.parent.name for path in folder.glob("*/checkpoint"))


def assert_same(a, b):
    """Bit by bit, whatever the containers."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def wait_for_training(process, folder, files):
    """Until a process has opened its event file, or ended; `files` are those of runs before."""
    wait_for(lambda: len(list(folder.glob("tensorboard/*"))) > files or not process.is_alive())


@pytest.mark.parametrize("kind, kills", [("no workers", 10), ("workers", 5), ("on signals only", 10), ("SOT-GLP", 5)])
def test_killed_runs_end_as_unbroken_ones(kind, kills, start, tmp_path):
    """30 kills in all, up to three of a run before it may finish: while it steps, saves, loads and evaluates."""
    draw, log = random.Random(kind), tmp_path / "log.txt"
    process = start(kind, tmp_path / "whole")
    wait_for_training(process, tmp_path / "whole", 0)
    begun = time.monotonic()
    assert finish(process) == 0, log.read_text()[-3000:]
    seconds, whole = time.monotonic() - begun, outcome(tmp_path / "whole")
    done = 0
    while done < kills:
        folder = tmp_path / f"killed after {done}"
        for number in range(4):
            process = start(kind, folder)
            if number < 3 and done < kills:
                wait_for_training(process, folder, len(list(folder.glob("tensorboard/*"))))
                time.sleep(draw.uniform(0, seconds / (1.5 + number)))
                what = draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, what)
            code = finish(process)
            if code == 0:
                break
            assert code in (-signal.SIGKILL, 128 + what), log.read_text()[-3000:]
            done += 1
        assert code == 0
        assert_same(outcome(folder), whole)

"""Small runs of train.py in processes of their own, and what they leave behind."""

import json
import multiprocessing
import os
import sys

import conftest  # noqa: F401 (registers the data set and the trainer, in the children too)
import torch
from processes import wait_for

from dassl.utils import load_checkpoint, saved_names
from train import main

# Children are forked from a process that has imported everything, and has never run a thread.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["conftest", "train", "trainers", "datasets.readers", "open_clip"])
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


def run(arguments, log):
    """What the program does, in a process whose output goes to a file."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in a program; inherited is "forkserver"
    with open(log, "a", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        os._exit(main(arguments))


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

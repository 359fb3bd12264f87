"""`sotglp.fit`: a run on a folder of images from Python, as scripts.run makes it."""

import contextlib
import io
import multiprocessing
import re
import time
import warnings
from pathlib import Path

import torch

from dassl.data.datasets import build_dataset, hash_images
from dassl.finished import FinishedRun
from dassl.plugins import prefer_neighbour
from dassl.utils import UserError, note, one_line_warnings, signals_interrupt, user_input
from scripts.methods import check_name, names, read_methods, shots_of, unique
from scripts.run import Run
from sotglp.features import seeded
from sotglp.toolbox.loading import load


@one_line_warnings()
def fit(folder, shots=16, method="SOTGLP", backbone="vit_b16", seed=1, output=None, options=None):
    """Train as `scripts.run` does, and return the Predictor of the run; `run` is its folder.

    A finished run on the same images is loaded, and a stopped one continues. The caller's random states stay.

    Args:
        folder: of images, with a folder for each class, or with a CSV file (docs/own-data.md).
        shots: training images of each class, or "all".
        method: name of a trainer in the list of methods (configs/comparisons/methods.yaml), or of a method.
        backbone: a file of configs/backbones; "small" needs no download.
        seed: of all random choices.
        output: folder of the results; output/<name of the folder> if None.
        options: {key of the configuration: value}, such as {"OPTIM.MAX_EPOCH": 20}.

    Raises:
        UserError: A mistake in the images or the settings; it is a ValueError.
        KeyboardInterrupt: The run was interrupted; the same call continues it.
    """
    prefer_neighbour("train")  # a train.py of the user may come first on the path
    import train
    from scripts.execution import configurations

    known = read_methods()
    by_trainer = {entry.trainer: entry for entry in reversed(known.values())}  # the first entry of each
    check_name(method, unique([*by_trainer, *known]), "method")
    check_name(backbone, names("backbones"), "backbone")
    folder = Path(folder).expanduser()
    output = Path("output", folder.resolve().name) if output is None else Path(output)
    words = {"DATALOADER.NUM_WORKERS": 0} if multiprocessing.get_start_method() != "fork" else {}
    words = [str(word) for pair in {**words, **(options or {})}.items() for word in pair]
    of_method = known.get(method) or by_trainer[method]
    place = backbone, str(folder), str(output), str(output / "features")
    run = Run(of_method, reader_of(folder), shots_of(shots), seed, *place, options=tuple(words))
    with unchanged(seed):
        if run.finished:
            with user_input():
                check_images(run, configurations([run])[run])
            note(f"finished before: {run.folder} (delete it to train again)")
        else:
            with contextlib.redirect_stdout(io.StringIO()), signals_interrupt():  # log.txt has the output
                with user_input():
                    args = train.parse_args(run.arguments)
                    cfg = train.setup_cfg(args)
                note(f"the log is {run.folder / 'log.txt'}")
                train.carry_out(args, cfg, run.arguments, time.time())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run has said the same
            return load(run.folder)


def check_images(run, cfg):
    """Check that a finished run has learned from the images that are there now.

    Raises:
        UserError: It has learned from others.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        images = build_dataset(cfg).train_x
    if FinishedRun(run.folder).results["split_hash"]["train"] != hash_images(images, cfg.DATASET.ROOT):
        raise UserError(f"{run.folder} has learned from other images of {run.root}: set another output, or delete it")


def reader_of(folder):
    """Return the file of configs/datasets that reads a folder: csv, if a CSV file in it has columns path and label."""
    for table in folder.glob("*.csv"):
        with open(table, encoding="utf-8-sig", errors="replace") as file:
            if {"path", "label"} <= set(re.findall(r"\w+", file.readline().lower())):
                return "csv"
    return "image_folder"


@contextlib.contextmanager
def unchanged(seed):
    """Seed the block, and restore the caller's random states and choice of algorithms after it."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, filled = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    try:
        with seeded(seed):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory = benchmark, filled

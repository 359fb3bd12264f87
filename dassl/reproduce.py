"""Whether a run gives its results again: ``python train.py --reproduce RESULTS_JSON``."""

import json
import shutil
from pathlib import Path

import torch
from tabulate import tabulate

from dassl.config import flatten
from dassl.utils import UserError, read_json

FOLDER = "reproduced"  # in the run's


def arguments_of(path):
    """Those of train.py that run again what wrote a results.json, into the folder `reproduced` beside it.

    An earlier reproduction is removed if it is finished, and goes on if it was stopped.

    Raises OSError or UserError if it is no such file, its config.yaml is missing, or its seed is random.
    """
    folder = Path(path).parent
    try:
        results = read_json(path)
        evaluated, seed, _ = results["evaluated"], results["seed"], flatten(results["metrics"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no results.json of train.py that tells how it was made") from error
    if seed < 0:
        raise UserError(f"{path} was made with a random seed (SEED {seed}): there is nothing to reproduce")
    if (folder / FOLDER / "results.json").is_file():
        shutil.rmtree(folder / FOLDER)
    flags = ["--config-file", str(folder / "config.yaml"), "--output-dir", str(folder / FOLDER)]
    if evaluated is not None:
        flags += ["--eval-only", "--model-dir", evaluated["model_dir"]]
        flags += [] if evaluated["epoch"] is None else ["--load-epoch", str(evaluated["epoch"])]
    return [*flags, "RESUME", ""]


def threads_of(path):
    """How many threads computed a results.json: sums depend on it. Files of before do not tell: those of now."""
    threads = read_json(path).get("threads")
    return threads if isinstance(threads, int) and threads > 0 else torch.get_num_threads()


def compare(path):
    """Print both results side by side; return 0 if all metrics are the same to the last digit, else 1."""
    old, new = read_json(path), read_json(str(Path(path).parent / FOLDER / "results.json"))
    before, after = flatten(old["metrics"]), flatten(new["metrics"])
    rows = [(name, value, after.get(name), after.get(name, float("nan")) - value) for name, value in before.items()]
    print(tabulate(rows, ["metric", "then", "now", "difference"], floatfmt=".4f"))
    for what in ("device", "threads", "versions", "git", "config_hash"):
        if old.get(what) != new[what]:
            print(f"{what} then: {old.get(what)}\n{what} now: {new[what]}")
    same = before == after
    print("The same results." if same else "Other results, see above for what else differs.")
    return 0 if same else 1

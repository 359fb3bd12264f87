"""Run a finished run again and compare the results: python train.py --reproduce RESULTS_JSON."""

import json
import shutil
from pathlib import Path

from tabulate import tabulate

from dassl.config import flatten
from dassl.utils import UserError, read_json

FOLDER = "reproduced"  # in the folder of the run


def arguments_of(path):
    """Return the arguments of train.py that repeat the run of a results.json, into `reproduced` beside it.

    An earlier reproduction is removed if it is finished, and continued if it was stopped.

    Raises:
        OSError: The file is missing.
        UserError: It is no results.json of train.py, or the run's seed was random.
    """
    folder = Path(path).parent
    try:
        results = read_json(path)
        evaluated, seed, _ = results["evaluated"], results["seed"], flatten(results["metrics"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no results.json of this train.py") from error
    if seed < 0:
        raise UserError(f"{path} was made with a random seed (SEED {seed}): it cannot be reproduced")
    if (folder / FOLDER / "results.json").is_file():
        shutil.rmtree(folder / FOLDER)
    flags = ["--config-file", str(folder / "config.yaml"), "--output-dir", str(folder / FOLDER)]
    if evaluated is not None:
        flags += ["--eval-only", "--model-dir", evaluated["model_dir"]]
        flags += [] if evaluated["epoch"] is None else ["--load-epoch", str(evaluated["epoch"])]
    return [*flags, "RESUME", ""]


def set_threads(path):
    """Set torch's number of threads to that of a results.json, because sums depend on it; older files lack it."""
    import torch

    threads = read_json(path).get("threads")
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)


def compare(path):
    """Print both results side by side; return 0 if all metrics are equal to the last digit, else 1."""
    old, new = read_json(path), read_json(str(Path(path).parent / FOLDER / "results.json"))
    before, after = flatten(old["metrics"]), flatten(new["metrics"])
    rows = [(name, value, after.get(name), after.get(name, float("nan")) - value) for name, value in before.items()]
    print(tabulate(rows, ["metric", "then", "now", "difference"], floatfmt=".4f"))
    for what in ("device", "threads", "versions", "git", "config_hash"):
        if old.get(what) != new[what]:
            print(f"{what} then: {old.get(what)}\n{what} now: {new[what]}")
    same = before == after
    print("The same results." if same else "Other results; the lines above show what else differs.")
    return 0 if same else 1

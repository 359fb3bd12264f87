"""Train and test a method with several seeds: python -m scripts.run METHOD DATASET SHOTS [options of train.py]

METHOD is a name of configs/comparisons/methods.yaml. DATASET is a file of configs/datasets, without .yaml. SHOTS is a
number of training images of each class, or all (also -1).

Finished runs are skipped, and stopped ones continue. A finished run with other settings, such as fewer epochs, is
another run: the command says what differs.

Settings come from the environment. Their defaults are in brackets:

DATA      folder of the data sets (data)
OUTPUT    folder of the results (output)
SEEDS     seeds, one run for each (1 2 3)
BACKBONE  a file of configs/backbones (small for the embedded data sets, else vit_b16)
FEATURES  folder of the encoded test images, which runs share; empty for none (OUTPUT/features)
VARIANT   name of the results' folder, for runs with options of your own (the method's)
PYTHON    the interpreter (python)

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

# This module alone decides the arguments of train.py and the folder of its results.

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from dassl.utils import UserError, command, read_json, user_input, write_json
from scripts import processes
from scripts.methods import (
    CONFIGS,
    Method,
    apart,
    check_name,
    names,
    read_methods,
    shots_of,
    shots_text,
    shots_word,
    unique,
    whole_number,
)

EMBEDDED = ("fashion_mnist", "emoji", "scenes")


class Command:
    """A program to start: a module, its `arguments`, and the `folder` that its result is written into."""

    program = "train"
    result = "results.json"

    @property
    def finished(self):
        return (self.folder / self.result).is_file()

    @property
    def failure(self):
        """Path of the file that says why the last try failed; there is none after a success."""
        return self.folder / f"{self.program}.failed.json"

    def fail(self, code, lines):
        """Write this file: the exit code, and what the program printed to stderr as a list of lines."""
        write_json({"exit_code": code, "error": lines[-1].removeprefix("error: "), "stderr": lines}, self.failure)

    @property
    def failed(self):
        """The exit code and the last line of the errors of the last try; None if it did not fail."""
        if not self.failure.is_file():
            return None
        failure = read_json(self.failure)
        return failure["exit_code"], failure["error"]

    def start(self, threads=None, errors=None):
        """Return the process of the program, started now (see scripts.processes.start)."""
        return processes.start(self.program, self.arguments, threads, errors)


@dataclass(frozen=True)
class Run(Command):
    """One run of train.py.

    Attributes:
        dataset: a file of configs/datasets, without .yaml.
        backbone: a file of configs/backbones, without .yaml.
        root: folder of the data sets.
        output: folder of all results.
        features: folder of the encoded test images; empty for none.
        streams: kinds of patch tokens to keep there.
        options: words that follow the flags of train.py.
    """

    method: Method
    dataset: str
    shots: int
    seed: int
    backbone: str
    root: str
    output: str
    features: str = ""
    streams: tuple = ()
    options: tuple = ()

    def __str__(self):
        seed = f", seed {self.seed}" if self.method.trained else ""
        return f"{self.dataset}, {shots_text(self.shots)}: {self.method.name}{seed}"

    @property
    def group(self):
        """The folder of the runs that differ in the seed only."""
        name = f"{self.backbone}_{shots_word(self.shots)}shots{apart(self.method.protocol)}"
        return Path(self.output, self.dataset, self.method.trainer, name, self.method.variant)

    @property
    def folder(self):
        return self.group / f"seed{self.seed}"

    @property
    def arguments(self):
        flags = () if self.method.trained else ("--eval-only",)
        return self.arguments_for(self.folder, self.dataset, self.shots, flags)

    def method_file(self):
        """Return a list of the method's config file: that of the data set, else of the backbone, else the default.

        The strict protocol has the same values on all data sets.
        """
        folder = CONFIGS / "trainers" / self.method.trainer
        of_dataset = [] if self.method.protocol == "strict" else [self.dataset]
        paths = [folder / f"{name}.yaml" for name in (*of_dataset, self.backbone, "default")]
        return [path for path in paths if path.is_file()][:1]

    def arguments_for(self, folder, dataset, shots, flags=(), pairs=()):
        """Return arguments of train.py with this run's settings, for any data set.

        Args:
            folder: folder of the results.
            dataset: a file of configs/datasets, without .yaml.
            shots: images per class to train on.
            flags: further flags of train.py.
            pairs: KEY VALUE words, merged last.
        """
        files = [CONFIGS / "backbones" / f"{self.backbone}.yaml", *self.method_file()]
        return [
            *("--trainer", self.method.trainer, "--root", self.root, "--output-dir", str(folder)),
            *("--seed", str(self.seed), "--dataset-config-file", str(CONFIGS / "datasets" / f"{dataset}.yaml")),
            *(word for path in files for word in ("--config-file", str(path))),
            *flags,
            *self.options,
            *self.method.options,
            *("PROTOCOL", self.method.protocol, "DATASET.NUM_SHOTS", str(shots)),
            *("INPUT.FEATURE_CACHE", self.features),
            *("INPUT.FEATURE_STREAMS", str(self.streams)),
            *pairs,
        ]


def make_runs(methods, datasets, shots, options=(), seeds=None):
    """Return all runs of methods x data sets x numbers of shots x seeds, with the settings of the environment.

    Args:
        methods: list of Method.
        datasets: files of configs/datasets, without .yaml.
        shots: numbers of images per class, or their text; -1 or all for all images.
        options: words for train.py.
        seeds: numbers or their text; None for SEEDS.

    Raises:
        UserError: A name is unknown, or a number is no number.
    """
    environment = {"DATA": "data", "OUTPUT": "output", "SEEDS": "1 2 3", **os.environ}
    environment.setdefault("FEATURES", str(Path(environment["OUTPUT"], "features")))
    seeds = environment["SEEDS"].split() if seeds is None else seeds
    seeds = unique(whole_number(seed, 0, "seeds (SEEDS)") for seed in seeds)
    shots = unique(map(shots_of, shots))
    if not (methods and datasets and shots and seeds):
        raise UserError("there is nothing to run: give at least one method, data set, number of shots and seed")
    streams = tuple(unique(method.patches for method in methods if method.patches))
    runs = []
    for dataset in unique(datasets):
        check_name(dataset, names("datasets"), "data set")
        backbone = environment.get("BACKBONE") or ("small" if dataset in EMBEDDED else "vit_b16")
        check_name(backbone, names("backbones"), "BACKBONE")
        for number in shots:
            # All methods with one seed before the next seed, so that they can be compared early.
            of_methods = [(1, method) for method in methods if not method.trained]
            of_methods += [(seed, method) for seed in seeds for method in methods if method.trained]
            for seed, method in of_methods:
                place = (backbone, environment["DATA"], environment["OUTPUT"], environment["FEATURES"], streams)
                runs.append(Run(method, dataset, number, seed, *place, tuple(options)))
    return runs


@command
def main(argv=None):
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    try:
        name, dataset, shots, *options = arguments
        shots_of(shots)
    except ValueError:
        known = "; ".join(names("datasets"))
        wanted = f"SHOTS 1 or more, or all, and DATASET one of: {known}"
        raise UserError(f"give DATASET and SHOTS, with {wanted}") from None
    methods = read_methods()
    check_name(name, methods, "method")
    method = replace(methods[name], variant=os.environ.get("VARIANT") or methods[name].variant)
    runs = make_runs([method], [dataset], [shots], options)
    if any(run.finished for run in runs):
        from scripts.execution import configurations  # here, because it takes seconds

        with user_input():  # a finished run with other settings, such as fewer epochs, is another run
            configurations([run for run in runs if run.finished])
    # An interrupt from the terminal reaches train.py as well, which reports it.
    signal.signal(signal.SIGINT, lambda *_: None)
    for run in runs:
        if run.finished:
            print(f"Finished before: {run.folder} (delete it to run it again)", flush=True)
        else:
            process = run.start()
            process.join()
            if process.exitcode:
                return max(process.exitcode, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

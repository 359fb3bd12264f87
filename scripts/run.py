"""Runs of a method, one a seed: ``python -m scripts.run METHOD DATASET SHOTS [options of train.py]``.

METHOD is a name of configs/comparisons/methods.yaml. A finished run is skipped, an interrupted one continued.
Settings from the environment, with their defaults:

DATA      folder of the data sets (data)
OUTPUT    folder of the results (output)
SEEDS     one run for each (1 2 3)
BACKBONE  a file of configs/backbones (small for the embedded data sets, else vit_b16)
FEATURES  folder of the encoded test images, which runs share (OUTPUT/features); none, if empty
VARIANT   name of the results' folder, for runs with options of your own (the method's)
PYTHON    the interpreter (python)

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.

Here, and nowhere else, stand what train.py is started with and where its results lie.
"""

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

CONFIGS = Path("configs")
METHODS = CONFIGS / "comparisons" / "methods.yaml"
EMBEDDED = ("fashion_mnist", "emoji")
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h: the signal that a process gets when its parent dies
# Buffers that malloc hands back after each training step are faulted in again at the next: a sixth of a CPU run's time.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


@dataclass(frozen=True)
class Method:
    """An entry of methods.yaml; options are words for train.py."""

    name: str
    trainer: str
    variant: str
    options: tuple = ()
    trained: bool = True
    published: str = ""
    core: bool = True
    class_specific: bool = False
    patches: str = ""


class Command:
    """A program, what it is started with (arguments), and where its result lies (folder)."""

    program = ("train.py",)
    result = "results.json"

    @property
    def finished(self):
        return (self.folder / self.result).is_file()

    def start(self, threads=None, **options):
        """Start the program and return its process, which is interrupted when this one dies.

        Args:
            threads: of torch on the CPU; torch's choice if None.
            options: of subprocess.Popen.
        """
        environment = {**MALLOC, **os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        prctl = ctypes.CDLL(None).prctl

        def die_with_parent():
            # A script's background ignores SIGINT, and what is started there would inherit that.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            prctl(PR_SET_PDEATHSIG, signal.SIGINT)

        return subprocess.Popen(
            [sys.executable, *self.program, *self.arguments],
            env=environment,
            preexec_fn=die_with_parent,
            **options,
        )


@dataclass(frozen=True)
class Run(Command):
    """One run of train.py; options are words that follow its flags."""

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
        """Folder of the runs that differ in the seed only."""
        name = f"{self.backbone}_{self.shots}shots"
        return Path(self.output, self.dataset, self.method.trainer, name, self.method.variant)

    @property
    def folder(self):
        return self.group / f"seed{self.seed}"

    @property
    def arguments(self):
        flags = () if self.method.trained else ("--eval-only",)
        return self.arguments_for(self.folder, self.dataset, self.shots, flags)

    def arguments_for(self, folder, dataset, shots, flags=(), pairs=()):
        """Those of train.py: this run's settings, whatever the data set that they are used on.

        A method's values for the run's own data set are merged over those that it has for all.

        Args:
            folder: of the results.
            flags: further ones of train.py.
            pairs: "KEY VALUE" words, merged last.
        """
        trainer = CONFIGS / "trainers" / self.method.trainer
        files = [CONFIGS / "backbones" / f"{self.backbone}.yaml"]
        files += [path for path in (trainer / "default.yaml", trainer / f"{self.dataset}.yaml") if path.is_file()]
        return [
            *("--trainer", self.method.trainer, "--root", self.root, "--output-dir", str(folder)),
            *("--seed", str(self.seed), "--dataset-config-file", str(CONFIGS / "datasets" / f"{dataset}.yaml")),
            *(word for path in files for word in ("--config-file", str(path))),
            *flags,
            *self.options,
            *self.method.options,
            *("DATASET.NUM_SHOTS", str(shots), "INPUT.FEATURE_CACHE", self.features),
            *("INPUT.FEATURE_STREAMS", str(self.streams)),
            *pairs,
        ]


@dataclass(frozen=True)
class Evaluation(Command):
    """What a run learned, tested on other images than its own.

    name: of its folder in the run's. dataset: a file of configs/datasets. pairs: "KEY VALUE" words in which the data
    differ from the run's. epoch: of the weights, None for the best on validation.
    """

    run: Run
    name: str
    dataset: str
    pairs: tuple
    epoch: int | None

    def __str__(self):
        return f"{self.run}, on {self.name}"

    @property
    def method(self):
        return self.run.method

    @property
    def seed(self):
        return self.run.seed

    @property
    def folder(self):
        return self.run.folder / "test" / self.name

    @property
    def arguments(self):
        weights = ["--model-dir", str(self.run.folder)] if self.method.trained else []
        if weights and self.epoch is not None:
            weights += ["--load-epoch", str(self.epoch)]
        # Another data set may have fewer images of a class than there were shots.
        shots = self.run.shots if self.dataset == self.run.dataset else -1
        return self.run.arguments_for(self.folder, self.dataset, shots, ["--eval-only", *weights], self.pairs)


@dataclass(frozen=True)
class Detection(Command):
    """How well a run tells images of other kinds; the result lies beside the run's own."""

    run: Run
    program = ("-m", "scripts.ood")
    result = "ood.json"

    def __str__(self):
        return f"{self.run}, OOD detection"

    @property
    def folder(self):
        return self.run.folder

    @property
    def arguments(self):
        return [str(self.folder), "--root", self.run.root]


def names(folder):
    """Names of the YAML files in a folder of configs/, sorted."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def check_name(name, known, kind):
    """Raises ValueError if a name is not known."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name}: take one of: {'; '.join(known)}")


def whole_number(text, least, kind):
    """A number from its text. Raises ValueError, which names its kind, unless it is whole and not below the least."""
    text = str(text)
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ValueError(f"{kind} must be whole numbers from {least}, not {text or 'nothing'}")
    return int(text)


def read_yaml(path):
    """The mapping in a file. Raises ValueError, with the file's name, if there is none."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold KEY: VALUE lines")
    return content


def read_methods(path=METHODS):
    """{name: Method} of all in a file. Raises ValueError for an entry that does not say what it must."""
    methods = {}
    for name, entry in read_yaml(path).items():
        try:
            options = tuple(word for pair in entry.pop("options", ()) for word in pair.split(maxsplit=1))
            methods[name] = Method(name, options=options, **entry)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {name}: give trainer and variant, and see the keys at its top") from error
        if len(options) % 2:
            raise ValueError(f'{path}: {name}: options must be a list of "KEY VALUE"')
    return methods


def make_runs(methods, datasets, shots, options=(), seeds=None):
    """All runs of methods x data sets x numbers of shots x seeds, as the environment wants them.

    Args:
        shots, seeds: numbers or their text; seeds are those of the environment if None.

    Raises:
        ValueError: a name is unknown, or something that must be a number is none.
    """
    environment = {"DATA": "data", "OUTPUT": "output", "SEEDS": "1 2 3", **os.environ}
    environment.setdefault("FEATURES", str(Path(environment["OUTPUT"], "features")))
    seeds = environment["SEEDS"].split() if seeds is None else seeds
    seeds = unique(whole_number(seed, 0, "seeds (SEEDS)") for seed in seeds)
    shots = unique(whole_number(number, 1, "shots (images per class)") for number in shots)
    if not (methods and datasets and shots and seeds):
        raise ValueError("there is nothing to run: give at least one method, data set, number of shots and seed")
    streams = tuple(unique(method.patches for method in methods if method.patches))
    runs = []
    for dataset in unique(datasets):
        check_name(dataset, names("datasets"), "data set")
        backbone = environment.get("BACKBONE") or ("small" if dataset in EMBEDDED else "vit_b16")
        check_name(backbone, names("backbones"), "BACKBONE")
        for number in shots:
            # A seed of all methods before the next, so that methods can be compared before all is done.
            of_methods = [(1, method) for method in methods if not method.trained]
            of_methods += [(seed, method) for seed in seeds for method in methods if method.trained]
            for seed, method in of_methods:
                place = (backbone, environment["DATA"], environment["OUTPUT"], environment["FEATURES"], streams)
                runs.append(Run(method, dataset, number, seed, *place, tuple(options)))
    return runs


def shots_text(number):
    return f"{number} shot{'s' * (number > 1)}"


def unique(values):
    """A list of the values, each once, in their order."""
    return list(dict.fromkeys(values))


def main(argv=None):
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    try:
        if len(arguments) < 3 or not arguments[2].isdigit():
            known = "; ".join(names("datasets"))
            raise ValueError(f"give DATASET and SHOTS, with SHOTS 1 or more and DATASET one of: {known}")
        name, dataset, shots, *options = arguments
        methods = read_methods()
        check_name(name, methods, "method")
        method = replace(methods[name], variant=os.environ.get("VARIANT") or methods[name].variant)
        runs = make_runs([method], [dataset], [shots], options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # An interrupt from the terminal reaches train.py as well, which ends with a line about it.
    signal.signal(signal.SIGINT, lambda *_: None)
    for run in runs:
        if run.finished:
            print(f"Finished before: {run.folder} (delete it to run it again)", flush=True)
        elif code := run.start().wait():
            return code if code > 0 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

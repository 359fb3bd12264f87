"""Protocols that test what was learned on other images: the runs of each, and the tests of their weights."""

from dataclasses import dataclass, replace
from pathlib import Path

from dassl.finished import final_epoch
from dassl.plugins import load_plugins
from dassl.utils import UserError
from scripts.methods import CONFIGS, check_name, names, read_yaml, unique
from scripts.run import Command, Run

IMAGENET_VARIANTS = {"imagenetv2": True, "imagenet_sketch": True, "imagenet_a": False, "imagenet_r": False}


@dataclass(frozen=True)
class Evaluation(Command):
    """A test of a run's weights on other images than its own.

    Attributes:
        run: the run.
        name: name of the folder in the run's folder test/.
        dataset: a file of configs/datasets, without .yaml.
        pairs: KEY VALUE words for the data, where they differ from the run's.
        epoch: epoch of the weights; None for the best on validation.
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
    def shots(self):
        return self.run.shots

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
        shots = self.shots if self.dataset == self.run.dataset else -1
        return self.run.arguments_for(self.folder, self.dataset, shots, ["--eval-only", *weights], self.pairs)


@dataclass(frozen=True)
class Target:
    """Images that runs are tested on besides their own test images.

    Attributes:
        name, dataset, pairs: as in an Evaluation.
        same_classes: whether its classes are those of the training, in the same order.
    """

    name: str
    dataset: str
    pairs: tuple = ()
    same_classes: bool = False


@dataclass(frozen=True)
class Plan:
    """Runs with the same training data, and what they are tested on.

    Attributes:
        runs: tuple of Run.
        own: name of the runs' own test.
        targets: tuple of Target.
        summary: last column of the table: "average" of the targets, or "HM", the harmonic mean of the two tests.
    """

    runs: tuple
    own: str
    targets: tuple
    summary: str = "average"


def base_to_new(arguments, make):
    """Return the Plans, one per data set.

    Args:
        arguments: DATASETS SHOTS.
        make: function (data set, shots) that returns runs.
    """
    datasets, shots = arguments
    plans = []
    for dataset in unique(datasets.split(",")):
        runs = placed(make(dataset, shots), "base_to_new", "DATASET.SUBSAMPLE_CLASSES", "base")
        targets = (Target("new", dataset, ("DATASET.SUBSAMPLE_CLASSES", "new")),)
        plans.append(Plan(runs, "base", targets, "HM"))
    return plans


def cross_dataset(arguments, make):
    """Return a list of the one Plan.

    Args:
        arguments: SOURCE TARGETS SHOTS.
        make: function (data set, shots) that returns runs.

    Raises:
        UserError: A target is unknown, or is the source.
    """
    source, targets, shots = arguments
    targets = unique(targets.split(","))
    for target in targets:
        check_name(target, names("datasets"), "data set")
    if source in targets:
        raise UserError(f"{source} is trained on and tested anyway: give other data sets as TARGETS")
    return [Plan(tuple(make(source, shots)), source, tuple(Target(name, name) for name in targets))]


def domain_generalization(arguments, make, sources=None):
    """Return a list of the one Plan.

    Args:
        arguments: DATASET SHOTS.
        make: function (data set, shots) that returns runs.
        sources: domains to train on; None for all but the last.

    Raises:
        UserError: The data set has neither variants nor domains, or no domain is left to test on.
    """
    dataset, shots = arguments
    runs = make(dataset, shots)
    if dataset == "imagenet" and not sources:
        return [Plan(tuple(runs), dataset, tuple(Target(n, n, same_classes=s) for n, s in IMAGENET_VARIANTS.items()))]
    domains = domains_of(dataset)
    if not domains:
        raise UserError(f"{dataset} has no domains: take imagenet (without --sources), or emoji")
    sources = unique(sources or domains[:-1])
    for source in sources:
        check_name(source, domains, f"domain of {dataset}")
    others = [domain for domain in domains if domain not in sources]
    if not others:
        raise UserError(f"--sources leaves none of {', '.join(domains)} to test on: leave one out")
    name = "+".join(sources)
    # With the same domains as targets, the data set keeps some of their images for the test.
    own = ("DATASET.SOURCE_DOMAINS", repr(tuple(sources)), "DATASET.TARGET_DOMAINS", repr(tuple(sources)))
    runs = placed(runs, f"domain_generalization/{name}", *own)
    pairs = {domain: ("DATASET.TARGET_DOMAINS", repr((domain,))) for domain in others}
    return [Plan(runs, name, tuple(Target(domain, dataset, pairs[domain], True) for domain in others))]


def domains_of(dataset):
    """Return the domains of a data set; none if it has no domains."""
    from dassl.data.datasets import DATASET_REGISTRY  # here, because it imports torch

    load_plugins()
    return DATASET_REGISTRY.get(read_yaml(CONFIGS / "datasets" / f"{dataset}.yaml")["DATASET"]["NAME"]).domains


def placed(runs, folder, *pairs):
    """Return the runs with further KEY VALUE words, and so with another folder below their output."""
    return tuple(replace(run, output=str(Path(run.output, folder)), options=(*run.options, *pairs)) for run in runs)


PROTOCOLS = {
    "base_to_new": (base_to_new, "DATASETS SHOTS"),
    "cross_dataset": (cross_dataset, "SOURCE TARGETS SHOTS"),
    "domain_generalization": (domain_generalization, "DATASET SHOTS"),
}


def tests_of(plan, configs):
    """Return {target: list of its Evaluations}, of the methods that can be tested on it.

    Args:
        plan: a Plan.
        configs: {run: its configuration}.
    """
    tests = {}
    for target in plan.targets:
        tests[target] = [
            evaluation_of(run, target, final_epoch(configs[run]))
            for run in plan.runs
            if target.same_classes or run.method.any_classes
        ]
    return tests


def evaluation_of(run, target, epoch=None):
    """Return the Evaluation of a run's weights of an epoch on a Target."""
    pairs = target.pairs if target.same_classes else (*target.pairs, *run.method.new_classes)
    return Evaluation(run, target.name, target.dataset, pairs, epoch)

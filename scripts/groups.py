"""Finished runs, read and averaged: the data of tables, plots and reports."""

import json
import statistics
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from dassl.finished import FinishedRun
from dassl.utils import Parser, UserError
from scripts.methods import Method, read_methods, shots_text, unique


@dataclass
class Group:
    """The runs of a method on one data set with one number of shots.

    Attributes:
        seeds: list of the seeds of all runs, finished or not.
        runs: {seed: results.json} of the finished runs.
        folder: Path with the runs in seed1, seed2, ...; None if unknown.
    """

    method: Method
    dataset: str
    shots: int
    seeds: list
    runs: dict
    folder: Path | None = None

    @property
    def complete(self):
        return set(self.runs) >= set(self.seeds)

    @property
    def backbone(self):
        return next((run["backbone"] for run in self.runs.values()), "")

    @property
    def seconds(self):
        """The mean seconds of a run; None if no run is finished."""
        return statistics.mean(run["seconds"] for run in self.runs.values()) if self.runs else None

    @property
    def own_seconds(self):
        """The mean seconds of a run without the encoding of images that runs share; None if no run is finished."""
        own = [run["seconds"] - run.get("seconds_of", {}).get("encoding", 0) for run in self.runs.values()]
        return statistics.mean(own) if own else None

    def finished_runs(self):
        """Return the finished runs as a list of FinishedRun; none if the folder is unknown."""
        return [FinishedRun(self.folder / f"seed{seed}") for seed in self.runs] if self.folder else []

    def values(self, metric="accuracy"):
        """Return {seed: value} of the finished runs that have the metric."""
        return {seed: run["metrics"][metric] for seed, run in self.runs.items() if metric in run["metrics"]}

    def cell(self, metric="accuracy"):
        """Return the mean and deviation over the seeds as a Cell.

        Its note says how many runs are missing. It is empty if the method lacks the metric.
        """
        values = list(self.values(metric).values())
        if self.runs and not values:
            return Cell()
        note = "" if self.complete else f"{len(values)} of {len(self.seeds)} seeds"
        return replace(statistic(values), note=note, counts=not note)


@dataclass
class Cell:
    """A cell of a table.

    Attributes:
        mean: a number; None in an empty cell.
        deviation: the standard deviation; None for a single run.
        note: words behind the number: missing runs, or a published result.
        counts: whether it competes for the best of its column.
        best: whether it is the best of its column.
    """

    mean: float | None = None
    deviation: float | None = None
    note: str = ""
    counts: bool = False
    best: bool = False

    def text(self, bold=str, digits=1):
        """Return the text of the cell; `bold` is a function that marks the best number."""
        number = "" if self.mean is None else f"{self.mean:.{digits}f}"
        if self.deviation is not None:
            number += f" ± {self.deviation:.{digits}f}"
        number = bold(number) if self.best else number
        return f"{number} ({self.note})" if number and self.note else number or self.note


def groups_parser(description):
    """Return the parser of a command that reads groups and writes files."""
    parser = Parser(description)
    parser.add_argument("groups", nargs="+", type=Path, metavar="GROUP", help="folder of runs, one subfolder per seed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    return parser


def read_runs(folder):
    """Return {seed: results} of the finished runs in the subfolders seed1, seed2, ... of a folder."""
    runs = [read_run(path.parent) for path in sorted(folder.glob("seed*/results.json"))]
    return {run["seed"]: run for run in sorted(runs, key=lambda run: run["seed"])}


def read_run(folder):
    """Return a run's results.json; an ood.json beside it adds the metric ood_auroc."""
    run = FinishedRun(folder).results
    scores = read_ood(folder).get("average", {})
    if score := scores.get("GL-MCM") or scores.get("MCM"):
        run["metrics"]["ood_auroc"] = score["AUROC"]
    return run


def read_ood(folder):
    """Return a run's ood.json, which scripts.ood writes; nothing without that file."""
    path = folder / "ood.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def group_of(commands, dataset):
    """Return the Group of a method's runs (scripts.run.Command), finished or not.

    Args:
        commands: runs that differ in the seed only.
        dataset: name of the data set in tables.
    """
    first = commands[0]
    runs = {command.seed: read_run(command.folder) for command in commands if command.finished}
    return Group(first.method, dataset, first.shots, [command.seed for command in commands], runs)


def read_groups(folders):
    """Return the Groups in folders, and empty ones for methods that lack one of the data sets.

    A method that trains should have each seed that any method has.

    Raises:
        UserError: A folder holds no finished run, or two folders hold the same method, data set and shots.
    """
    groups, places = [], {}
    for folder in folders:
        runs = read_runs(folder)
        if not runs:
            raise UserError(f"no finished run (seed*/results.json) in {folder}: run its script first")
        run = next(iter(runs.values()))
        method = method_of(run, folder.name).by(run.get("protocol", "published"))
        group = Group(method, run["dataset"], run["shots"], list(runs), runs, folder)
        place = places.setdefault((method, group.dataset, group.shots), folder)
        if place != folder:
            raise UserError(f"{place} and {folder} are both {title([group])}, {method.name}: give one of them")
        groups.append(group)
    seeds = sorted({seed for group in groups if group.method.trained for seed in group.runs})
    for group in groups:
        if group.method.trained:
            group.seeds = seeds
    return with_lacking(groups)


def method_of(run, variant):
    """Return the Method of a run's results.json in the folder of a variant, by the published protocol."""
    known = {(method.trainer, method.variant): method for method in read_methods().values()}
    name = f"{run['trainer']}, {variant.replace('-', ' ')}"
    other = Method(name, run["trainer"], variant, trained=run.get("epochs", 1) is not None)
    return known.get((run["trainer"], variant), other)


def with_lacking(groups):
    """Return groups, and empty ones for methods that lack one of the data sets of the same number of shots."""
    there = {(group.method, group.dataset, group.shots) for group in groups}
    lacking = {
        (other.dataset, group.shots, group.method): replace(group, dataset=other.dataset, runs={}, folder=None)
        for group in groups
        for other in groups
        if group.shots == other.shots and (group.method, other.dataset, group.shots) not in there
    }
    return [*groups, *lacking.values()]


def by_place(groups):
    """Yield (data set, number of shots, the Groups of both), in the order of the groups."""
    for place in unique((group.dataset, group.shots) for group in groups):
        yield *place, [group for group in groups if (group.dataset, group.shots) == place]


def check_splits(groups):
    """Check that groups were made on one split: other results can be neither averaged nor compared.

    The test images of a data set must be the same in all runs, the training images in all runs of a seed and a number
    of shots. Runs of earlier versions, whose results.json does not identify their images, are not checked.

    Raises:
        UserError: Two runs have other images.
    """
    first = {}
    for group in groups:
        for seed, run in group.runs.items():
            for part, digits in (run.get("split_hash") or {}).items():
                which = () if part == "test" else (group.shots, seed)
                name, other = first.setdefault((group.dataset, part, *which), (group.method.name, digits))
                if digits != other:
                    raise UserError(
                        f"{name} and {group.method.name} had other {part} images of {group.dataset} "
                        f"({other} and {digits}, seed {seed}): results on different splits cannot stand in one table"
                    )


def statistic(values):
    """Return the mean and the sample standard deviation of values as a Cell."""
    mean = statistics.mean(values) if values else None
    return Cell(mean, statistics.stdev(values) if len(values) > 1 else None, counts=bool(values))


def seed_averages(groups, metric="accuracy"):
    """Return {seed: average over data sets} of a method's Groups, one per data set, for the seeds that all have."""
    values = [group.values(metric) for group in groups]
    seeds = sorted(set.intersection(*map(set, values))) if values else []
    return {seed: statistics.mean(value[seed] for value in values) for seed in seeds}


def average(groups, metric="accuracy"):
    """Return a method's average over data sets as a Cell, with the deviation over the seeds' averages.

    It is empty unless all runs on all data sets are finished: the average of some would be another benchmark.

    Args:
        groups: a method's Groups, one per data set.
        metric: name of the metric.
    """
    complete = [group for group in groups if set(group.values(metric)) >= set(group.seeds)]
    if len(complete) < len(groups):
        return Cell(note=f"{len(complete)} of {len(groups)} data sets")
    return statistic([*seed_averages(groups, metric).values()])


def lead(groups):
    """Return a sentence: the best method of a table, and its lead over the next, paired over the seeds of both.

    It is empty without two methods that have two seeds in common on all data sets. The interval is Student's.

    Args:
        groups: list of Group with one number of shots.
    """
    from scipy.stats import ttest_rel  # here, because it takes half a second

    datasets, by_seed = unique(group.dataset for group in groups), {}
    for method in unique(group.method for group in groups if group.method.trained):
        of_method = [group for group in groups if group.method == method]
        by_seed[method] = seed_averages(of_method) if len(of_method) == len(datasets) else {}
    most = max(map(len, by_seed.values()), default=0)
    ranked = [method for method in by_seed if len(by_seed[method]) == most > 1]
    ranked.sort(key=lambda method: -statistics.mean(by_seed[method].values()))
    if len(ranked) < 2:
        return ""
    first, second = (by_seed[method] for method in ranked[:2])
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of equal differences: their interval is a point
        paired = ttest_rel([first[seed] for seed in seeds], [second[seed] for seed in seeds])
    low, high = paired.confidence_interval(0.95)
    gap = statistics.mean(first[seed] - second[seed] for seed in seeds)
    return (
        f"{ranked[0].name} leads {ranked[1].name} by {gap:.1f} points "
        f"(95 % interval {low:.1f} to {high:.1f}, paired over {len(seeds)} seeds)."
    )


def title(groups):
    """Return the words that groups have in common: data set, number of shots, backbone."""
    datasets, shots = unique(group.dataset for group in groups), unique(group.shots for group in groups)
    what = [datasets[0] if len(datasets) == 1 else f"{len(datasets)} data sets"]
    what += [shots_text(shots[0])] if len(shots) == 1 else []
    return ", ".join([*what, *unique(group.backbone for group in groups if group.runs)])


def caption(groups):
    """Return the words above a table of groups."""
    return ", ".join(filter(None, [f"{title(groups)}, {protocols_of(groups)}: accuracy in %", over_seeds(groups)]))


def over_seeds(groups):
    """Return what the numbers of groups are in words: means over seeds, or one seed's; "" if nothing is trained."""
    trained = [group for group in groups if group.method.trained and group.runs]
    if any(len(group.runs) > 1 for group in trained):
        seeds = sorted({seed for group in trained for seed in group.seeds})
        return f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
    seeds = sorted({seed for group in trained for seed in group.runs})
    return f"one run (seed {', '.join(map(str, seeds))})" if seeds else ""


def one_by_one(groups):
    """Return whether all runs of groups are known to have run one after the other, so that their seconds compare."""
    spans = [(run.get("started"), run.get("ended")) for group in groups for run in group.runs.values()]
    known = all(start and end for start, end in spans)  # as results.json has them, times sort as their text does
    return known and all(end <= start for (_, end), (start, _) in pairwise(sorted(spans)))


def protocols_of(groups):
    """Return the protocols of groups in words."""
    return f"{' and '.join(unique(group.method.protocol for group in groups))} protocol"

"""Compare OOD detection of methods: python -m scripts.ood_detection DATASETS SHOTS [options of train.py]

Arguments and settings are those of scripts.compare (see its --help), and so are the runs: finished ones are skipped.
Then scripts.ood scores each run against the OOD sets of its data set, once.

Two more settings come from the environment: SETS and SHIFTED, names or paths between blanks, are scripts.ood's --sets
and --shifted. Runs that were scored with others are scored anew.

At the end the command writes two tables (terminal, Markdown, LaTeX) of averages over the OOD sets: AUROC and FPR95 in
percent, as scripts.ood defines them (see its --help); near sets and the full spectrum have tables of their own.
table.csv also has a row for each set.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import os
import sys
from dataclasses import dataclass

from dassl.utils import UserError, command
from scripts import compare, table
from scripts.execution import carry_out, configurations, finished_of
from scripts.groups import Group, by_place, over_seeds, protocols_of, read_ood
from scripts.launcher import launch_of, show_status
from scripts.methods import shots_text, unique
from scripts.ood_sets import METRICS, SCORES, spectra
from scripts.run import Command, Run

CSV_COLUMNS = ("method", "dataset", "shots", "OOD set", "score", "metric", "mean", "std", "seeds")
BEST = {"AUROC": max, "FPR95": min}
# What is averaged: words of the tables.
AVERAGES = {
    "average": "averages over the OOD sets",
    "near": "averages over the near OOD sets",
    "full spectrum, average": "full spectrum, averages over the OOD sets",
    "full spectrum, near": "full spectrum, averages over the near OOD sets",
}


@dataclass(frozen=True)
class Detection(Command):
    """The OOD detection of a run. Its ood.json is in the run's folder.

    Attributes:
        sets, shifted: arguments of scripts.ood; without sets, those of the run's data set.
    """

    run: Run
    sets: tuple = ()
    shifted: tuple = ()
    program = "scripts.ood"
    result = "ood.json"

    def __str__(self):
        return f"{self.run}, OOD detection"

    @property
    def folder(self):
        return self.run.folder

    @property
    def finished(self):
        """Whether it is, and with these sets, if some are asked for."""
        if not super().finished or not (self.sets or self.shifted):
            return super().finished
        return read_ood(self.folder).get("asked") == {"sets": list(self.sets) or None, "shifted": list(self.shifted)}

    @property
    def arguments(self):
        flags = {"--sets": self.sets, "--shifted": self.shifted}
        words = [word for flag, names in flags.items() if names for word in (flag, *names)]
        return [str(self.folder), "--root", self.run.root, *words]


def group_of(method, detections):
    """Return the Group of a method's Detections; a metric's name is one of ``flat``."""
    runs = {}
    for detection in detections:
        if detection.finished:
            runs[detection.run.seed] = {"metrics": flat(read_ood(detection.folder))}
    run = detections[0].run
    return Group(method, run.dataset, run.shots, [detection.run.seed for detection in detections], runs)


def flat(results):
    """Return the content of an ood.json as {(OOD set or one of AVERAGES, score, metric): value}."""
    values = {}
    for spectrum, separated in spectra(results).items():
        averages = {name: separated[name] for name in ("average", "near") if name in separated}
        for name, by_score in {**separated["sets"], **averages}.items():
            place = f"{spectrum}, {name}" if spectrum else name
            values |= {
                (place, score, metric): value
                for score, metrics in by_score.items()
                for metric, value in metrics.items()
            }
    return values


def report(detections, out):
    """Print and write a table for each data set, number of shots, kind of average and metric.

    Args:
        detections: list of Detection.
        out: Path of the folder for the files.
    """
    places = unique((d.run.dataset, d.run.shots, d.run.method) for d in detections)
    groups = [
        group_of(place[-1], [d for d in detections if (d.run.dataset, d.run.shots, d.run.method) == place])
        for place in places
    ]
    groups = [group for group in groups if group.runs]
    tables, lines = [], [CSV_COLUMNS]
    for dataset, shots, of_table in by_place(groups):
        measured = {name for group in of_table for run in group.runs.values() for name, *_ in run["metrics"]}
        for average in (name for name in AVERAGES if name in measured):
            for metric in METRICS:
                rows = [
                    [group.method.name, *(group.cell((average, score, metric)) for score in SCORES)]
                    for group in of_table
                ]
                for column in zip(*(row[1:] for row in rows), strict=True):
                    table.mark_best(column, BEST[metric])
                over = ", ".join(filter(None, [AVERAGES[average], over_seeds(of_table)]))
                words = f"{dataset}, {shots_text(shots)}, {protocols_of(of_table)}: {metric} in %, {over}"
                tables.append((words, ["method", *SCORES], rows, []))
    for group in groups:
        for key in next(iter(group.runs.values()))["metrics"]:
            cell = group.cell(key)
            what = [group.method.name, group.dataset, group.shots, *key]
            lines.append([*what, cell.mean, cell.deviation, len(group.runs)])
    if tables:
        table.show(tables, lines, out)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    runs, out, args = compare.parse(sys.argv[1:] if argv is None else argv, __doc__)
    if args.published or args.archive:
        raise UserError("--published and --archive are for compare.sh: they hold accuracies")
    sets, shifted = (tuple(os.environ.get(name, "").split()) for name in ("SETS", "SHIFTED"))
    detections = [Detection(run, sets, shifted) for run in runs]
    if args.status:
        return show_status([*runs, *detections], runs[0].output)
    launch = launch_of(args, [*runs, *detections])
    configurations(runs)
    plan = f"{len(runs)} runs and their OOD detection, {finished_of(runs, detections)} finished before"
    out = out.with_name(f"ood_{out.name}")
    return carry_out(plan, runs, lambda: report(detections, out), launch, detections)


if __name__ == "__main__":
    sys.exit(main())

"""Compare OOD detection of methods: python -m scripts.ood_detection DATASETS SHOTS [options of train.py]

Arguments and settings are those of scripts.compare (see its --help), and so are the runs: finished ones are skipped.
Then scripts.ood scores each run against the OOD sets of its data set, once.

At the end the command writes two tables (terminal, Markdown, LaTeX) of averages over the OOD sets: AUROC and FPR95 in
percent, as scripts.ood defines them (see its --help). table.csv also has a row for each set.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import sys
from dataclasses import dataclass

from dassl.utils import UserError, command
from scripts import compare, table
from scripts.execution import carry_out, configurations, finished_of, jobs_and_threads
from scripts.groups import Group, protocols_of, read_ood
from scripts.methods import shots_text, unique
from scripts.ood_sets import METRICS, SCORES
from scripts.run import Command, Run

CSV_COLUMNS = ("method", "dataset", "shots", "OOD set", "score", "metric", "mean", "std", "seeds")
BEST = {"AUROC": max, "FPR95": min}
AVERAGE = "average"


@dataclass(frozen=True)
class Detection(Command):
    """The OOD detection of a run. Its ood.json is in the run's folder."""

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


def group_of(method, detections):
    """Return the Group of a method's Detections; a metric's name is (OOD set or AVERAGE, score, metric)."""
    runs = {}
    for detection in detections:
        if detection.finished:
            results = read_ood(detection.folder)
            by_set = {**results["sets"], AVERAGE: results["average"]}
            runs[detection.run.seed] = {"metrics": flat(by_set)}
    run = detections[0].run
    return Group(method, run.dataset, run.shots, [detection.run.seed for detection in detections], runs)


def flat(by_set):
    """Return {set: {score: {metric: value}}} as {(set, score, metric): value}."""
    return {
        (name, score, metric): value
        for name, by_score in by_set.items()
        for score, metrics in by_score.items()
        for metric, value in metrics.items()
    }


def report(detections, out):
    """Print and write two tables for each data set and number of shots.

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
    for dataset, shots in unique((group.dataset, group.shots) for group in groups):
        of_table = [group for group in groups if (group.dataset, group.shots) == (dataset, shots)]
        for metric in METRICS:
            rows = [
                [group.method.name, *(group.cell((AVERAGE, score, metric)) for score in SCORES)] for group in of_table
            ]
            for column in zip(*(row[1:] for row in rows), strict=True):
                table.mark_best(column, BEST[metric])
            over = "averages over the OOD sets, mean ± standard deviation"
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
    jobs, threads = jobs_and_threads()
    configurations(runs)
    detections = [Detection(run) for run in runs]
    plan = f"{len(runs)} runs and their OOD detection, {finished_of(runs, detections)} finished before"
    out = out.with_name(f"ood_{out.name}")
    return carry_out(plan, runs, lambda: report(detections, out), jobs, threads, detections)


if __name__ == "__main__":
    sys.exit(main())

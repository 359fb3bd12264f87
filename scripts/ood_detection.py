"""OOD detection of methods side by side: ``python -m scripts.ood_detection DATASETS SHOTS [options of train.py]``.

Arguments, methods and settings are those of scripts/compare.py, whose runs are taken where they are finished and
trained where not. Then scripts/ood.py scores each of them against the data set's own OOD sets; what it has scored is
not scored again. In the end there are two tables (terminal, Markdown, LaTeX) of means over the OOD sets: AUROC and
FPR95 in percent, whose convention stands in dassl/metrics/ood.py. table.csv has a row for each set as well.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import json
import sys

from scripts import compare, table
from scripts.ood import METRICS, SCORES
from scripts.run import Detection, unique

CSV_COLUMNS = ("method", "dataset", "shots", "OOD set", "score", "metric", "mean", "std", "seeds")
BEST = {"AUROC": max, "FPR95": min}
AVERAGE = "average"


def group_of(method, detections):
    """The Group of a method's detections; a metric's name is (OOD set or AVERAGE, score, metric)."""
    runs = {}
    for detection in detections:
        if detection.finished:
            results = json.loads((detection.folder / detection.result).read_text(encoding="utf-8"))
            by_set = {**results["sets"], AVERAGE: results["average"]}
            runs[detection.run.seed] = {"metrics": flat(by_set)}
    run = detections[0].run
    return table.Group(method, run.dataset, run.shots, [detection.run.seed for detection in detections], runs)


def flat(by_set):
    """{set: {score: {metric: value}}} -> {(set, score, metric): value}."""
    return {
        (name, score, metric): value
        for name, by_score in by_set.items()
        for score, metrics in by_score.items()
        for metric, value in metrics.items()
    }


def report(detections, out):
    """Print two tables for each data set and number of shots, and write them into a folder."""
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
            words = f"{dataset}, {shots} shots: {metric} in %, averages over the OOD sets, mean ± standard deviation"
            tables.append((words, ["method", *SCORES], rows, []))
    for group in groups:
        for key in next(iter(group.runs.values()))["metrics"]:
            cell = group.cell(key)
            what = [group.method.name, group.dataset, group.shots, *key]
            lines.append([*what, cell.mean, cell.deviation, len(group.runs)])
    if tables:
        table.show(tables, lines, out)


def main(argv=None):
    """Run the protocol; return the exit code as scripts/compare.py does."""
    try:
        runs, out, _ = compare.parse(sys.argv[1:] if argv is None else argv, __doc__)
        compare.configurations(runs)
        jobs, threads = compare.jobs_and_threads()
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    detections = [Detection(run) for run in runs]
    finished = compare.finished_of(runs, detections)
    told = f"{len(runs)} runs and their OOD detection, {finished} finished before"
    out = out.with_name(f"ood_{out.name}")
    return compare.carry_out(told, runs, lambda: report(detections, out), jobs, threads, detections)


if __name__ == "__main__":
    sys.exit(main())

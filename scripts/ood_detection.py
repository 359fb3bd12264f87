"""OOD detection of methods side by side: ``python -m scripts.ood_detection DATASETS SHOTS [options of train.py]``.

Arguments, methods and settings are those of scripts/compare.py, whose runs are taken where they are finished and
trained where not. Then scripts/ood.py scores each of them against the data set's own OOD sets; what it has scored is
not scored again. In the end there are two tables (terminal, Markdown, LaTeX) of means over the OOD sets: AUROC and
FPR95 in percent, whose convention stands in dassl/metrics/ood.py. table.csv has a row for each set as well.
"""

import json
import sys

from scripts import compare, table
from scripts.ood import METRICS, SCORES
from scripts.run import Detection, unique

CSV_COLUMNS = ("method", "dataset", "shots", "OOD set", "score", "metric", "mean", "std", "seeds")
BEST = {"AUROC": max, "FPR95": min}
AVERAGE = "average"


def read(detections):
    """{seed: {set: {score: {metric: value}}}} of those that are finished, with the average as a set."""
    found = {}
    for detection in detections:
        if detection.finished:
            results = json.loads((detection.folder / detection.result).read_text(encoding="utf-8"))
            found[detection.run.seed] = {**results["sets"], AVERAGE: results["average"]}
    return found


def cell_of(found, seeds, name, score, metric):
    """Mean and deviation over the seeds; empty if the method lacks the score."""
    values = [sets[name][score][metric] for sets in found.values() if score in sets[name]]
    cell = table.statistic(values)
    if values and len(found) < len(seeds):
        cell.note, cell.counts = f"{len(found)} of {len(seeds)} seeds", False
    return cell


def report(detections, out):
    """Print two tables for each data set and number of shots, and write them into a folder."""
    tables, lines = [], []
    for dataset, shots in unique((d.run.dataset, d.run.shots) for d in detections):
        of_table = [d for d in detections if (d.run.dataset, d.run.shots) == (dataset, shots)]
        by_method = {m: [d for d in of_table if d.run.method == m] for m in unique(d.run.method for d in of_table)}
        rows = {metric: [] for metric in METRICS}
        for method, of_method in by_method.items():
            found, seeds = read(of_method), [d.run.seed for d in of_method]
            for name in next(iter(found.values()), ()):
                for metric in METRICS:
                    cells = [cell_of(found, seeds, name, score, metric) for score in SCORES]
                    if name == AVERAGE:
                        rows[metric].append([method.name, *cells])
                    for score, cell in zip(SCORES, cells, strict=True):
                        if cell.mean is not None:
                            which = [method.name, dataset, shots, name, score, metric]
                            lines.append([*which, cell.mean, cell.deviation, len(found)])
        for metric, of_metric in rows.items():
            for column in zip(*(row[1:] for row in of_metric), strict=True):
                table.mark_best(column, BEST[metric])
            if of_metric:
                words = (
                    f"{dataset}, {shots} shots: {metric} in %, averages over the OOD sets, mean ± standard deviation"
                )
                tables.append((words, ["method", *SCORES], of_metric, []))
    if not tables:
        return
    table.show(tables, [CSV_COLUMNS, *lines], out)


def main(argv=None):
    """Run the protocol; return the exit code as scripts/compare.py does."""
    try:
        runs, out, _ = compare.parse(sys.argv[1:] if argv is None else argv)
        compare.configurations(runs)
        jobs, threads = compare.jobs_and_threads()
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    detections = [Detection(run) for run in runs]
    both = [*runs, *detections]
    count = sum(command.finished for command in both)
    finished = f"{count} of {len(both)} finished before"
    print(f"{len(runs)} runs and their OOD detection, {finished}; {jobs} at a time", flush=True)
    compare.end_by_interrupt()
    try:
        failed = compare.execute([run for run in runs if not run.finished], jobs, threads)
        ready = [detection for detection in detections if detection.run.finished and not detection.finished]
        failed |= compare.execute(ready, jobs, threads)
        report(detections, out.with_name(f"ood_{out.name}"))
    except KeyboardInterrupt:
        return compare.tell_interrupted(both)
    return compare.tell_failed(failed)


if __name__ == "__main__":
    sys.exit(main())

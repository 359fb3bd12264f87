"""Make one table of all protocols: python -m scripts.overview DATASETS SHOTS [options of train.py]

Arguments and settings are those of scripts.compare (see its --help); by default all methods of the list are shown. The
command starts no runs. It reads what scripts.compare, scripts.ood_detection and scripts.transfer base_to_new have
finished on these data sets at this number of shots, by both protocols (published, strict). A row is a method by a
protocol. A cell is empty where nothing was run.

accuracy       few-shot accuracy in %, mean ± standard deviation over the seeds
AUROC, FPR95   of OOD detection by the score of --score, averaged over the OOD sets, in %
HM             harmonic mean of the accuracies on base and new classes, in %
seconds        of a run
learned        learned numbers, in thousands
GiB            most memory of a run: of the GPU, or of the process on the CPU

Of several data sets the columns are averages: accuracy of all, the others of those where any method has them. The last
three are of the few-shot runs. The command writes the table (terminal, Markdown, LaTeX, CSV) and overview.png: accuracy
over AUROC, with the Pareto front.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import statistics
import sys
from pathlib import Path

from dassl.utils import UserError, command
from scripts import compare, ood_detection, plots, table
from scripts.execution import configurations
from scripts.groups import Cell, check_splits, group_of, over_seeds, title
from scripts.methods import PROTOCOLS, choose_methods, unique
from scripts.ood_sets import METRICS, SCORES
from scripts.run import make_runs
from scripts.transfer_plans import base_to_new, evaluation_of
from scripts.transfer_tables import HM, cell_of, harmonic

BEST = {"accuracy": max, "AUROC": max, "FPR95": min, "HM": max}
PLAIN = {  # column: its number in a run's results.json, None if it is missing
    "seconds": lambda run: run["seconds"],
    "learned": lambda run: None if (number := run.get("learned_parameters")) is None else number / 1000,
    "GiB": lambda run: (peak := run.get("peak_gib") or {}).get("gpu") or peak.get("process"),
}


def parse(argv):
    """Return the commands whose results are read, and the parsed arguments.

    Returns:
        (list of Run, list of Run on base classes, list of Evaluation on new classes, arguments)

    Raises:
        UserError: An argument, or a setting of the environment, is wrong.
    """
    parser = compare.make_parser(__doc__)
    parser.add_argument("--score", choices=SCORES, default="GL-MCM", help="score of OOD detection (GL-MCM)")
    args = compare.parse_flags(parser, argv)
    if len(args.what) < 2:
        raise UserError("give DATASETS and SHOTS (such as: fashion_mnist 16); see --help")
    datasets, shots, *options = args.what
    known = choose_methods(args.methods, args.method or ["all"])
    methods = [method.by(protocol) for method in known for protocol in PROTOCOLS]

    def make(datasets, shots):
        return make_runs(methods, datasets.split(","), [shots], options)

    plans = base_to_new((datasets, shots), make)
    base = [run for plan in plans for run in plan.runs]
    new = [evaluation_of(run, plan.targets[0]) for plan in plans for run in plan.runs if run.method.any_classes]
    return make(datasets, shots), base, new, args


def gather(commands, make_group=None):
    """Return {(method, data set): Group} of the data sets on which any command is finished.

    Args:
        commands: list of Run or Evaluation.
        make_group: function of the commands of a method and a data set that returns their Group.
    """
    places = {}
    for one in commands:
        places.setdefault((one.method, one.dataset), []).append(one)
    make_group = make_group or (lambda of_place: group_of(of_place, of_place[0].dataset))
    groups = {place: make_group(of_place) for place, of_place in places.items()}
    filled = {dataset for (_, dataset), group in groups.items() if group.runs}
    return {place: group for place, group in groups.items() if place[1] in filled}


def detected(runs):
    """Return the Group of OOD detection of the runs of a method and a data set."""
    return ood_detection.group_of(runs[0].method, [ood_detection.Detection(run) for run in runs])


def groups_of(groups, method):
    """Return a method's Groups of what `gather` returns; none if no run of them is finished."""
    of_method = [group for (other, _), group in groups.items() if other == method]
    return of_method if any(group.runs for group in of_method) else []


def row_of(method, score, few_shot, ood, base, new):
    """Return {column: Cell} of a method.

    Args:
        method: a Method.
        score: name of the score of OOD detection.
        few_shot, ood, base, new: what `gather` returns of the runs, their OOD detection, the runs on base classes, and
            their tests on new ones.
    """
    own, detection, on_new = (groups_of(groups, method) for groups in (few_shot, ood, new))
    on_base = [base[method, group.dataset] for group in on_new]
    plain = {
        name: [number for group in own for run in group.runs.values() if (number := get(run)) is not None]
        for name, get in PLAIN.items()
    }
    return {
        "accuracy": cell_of(own) if own else Cell(),
        **{metric: cell_of(detection, ("average", score, metric)) if detection else Cell() for metric in METRICS},
        "HM": harmonic(on_base, on_new) if on_new else Cell(),
        **{name: Cell(statistics.fmean(numbers)) if numbers else Cell() for name, numbers in plain.items()},
    }


def report(runs, base, new, score, out):
    """Print and write the table, and draw its plot.

    Args:
        runs, base, new: lists of commands, as `parse` returns them.
        score: name of the score of OOD detection.
        out: Path of the folder for the files.

    Raises:
        UserError: Nothing is finished, or results were made on different splits.
    """
    kinds = [gather(runs), gather(runs, detected), gather(base), gather(new)]
    for groups in kinds:
        check_splits(groups.values())
    rows = {method: row_of(method, score, *kinds) for method in unique(run.method for run in runs)}
    rows = {method: row for method, row in rows.items() if any(cell.text() for cell in row.values())}
    if not rows:
        datasets = ", ".join(unique(run.dataset for run in runs))
        raise UserError(f"nothing of these methods is finished on {datasets}: run scripts/compare.sh first")
    for name, best in BEST.items():
        table.mark_best([row[name] for row in rows.values()], best)
    few_shot, ood, _, on_new = ([*groups.values()] for groups in kinds)
    notes = [
        f"AUROC and FPR95: by {score}, on {names_of(ood)}. HM: on {names_of(on_new)}.",
        HM,
        "learned: thousands of numbers. GiB: of the GPU, or of the process on the CPU.",
    ]
    columns = list(next(iter(rows.values())))
    lines = [["method", "protocol", *(word for name in columns for word in (name, f"{name} std"))]]
    for method, row in rows.items():
        numbers = [number for cell in row.values() for number in (cell.mean, cell.deviation)]
        lines.append([method.name, method.protocol, *numbers])
    words = ": ".join(filter(None, [title(few_shot), over_seeds(few_shot)]))
    of_table = [[method.name, *row.values()] for method, row in rows.items()]
    table.show([(words, ["method", *columns], of_table, notes)], lines, out)
    accuracies = plots.summary(few_shot, runs[0].shots)
    aurocs = {method: rows[method]["AUROC"] for method in accuracies if rows[method]["AUROC"].mean is not None}
    # The same point by both protocols is drawn once, as the published one.
    places = {(m.trainer, m.variant, accuracies[m].mean, aurocs[m].mean): m for m in reversed(aurocs)}
    if aurocs := {method: cell for method, cell in aurocs.items() if method in places.values()}:
        drawn = [group for group in few_shot if group.method in aurocs]
        plots.draw_scatter(drawn, aurocs, f"AUROC of {score} in %", out / "overview.png", front=True)
        print("Plot: overview.png")


def names_of(groups):
    """Return the names of the data sets of groups in words."""
    return ", ".join(unique(group.dataset for group in groups)) or "no data set yet"


@command
def main(argv=None):
    """Run the command and return its exit code."""
    runs, base, new, args = parse(sys.argv[1:] if argv is None else argv)
    configurations([one for one in (*runs, *base, *new) if one.finished])  # with other settings they are other runs
    report(runs, base, new, args.score, compare.output_folder(runs, Path(args.what[0]), "overview"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

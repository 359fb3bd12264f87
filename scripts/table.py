"""Table and bar chart of finished runs: ``python -m scripts.table --out FOLDER GROUP...``.

A GROUP is a folder with one sub-folder a seed, each with a results.json. Prints mean and standard deviation over
the seeds, and writes table.md, table.csv and table.png into FOLDER.
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

COLUMNS = {"accuracy": "accuracy", "accuracy_global": "global branch", "accuracy_local": "local branch"}
HEADERS = ["method", "seeds", *COLUMNS.values(), "seconds"]


def read_group(folder):
    """The results of a folder's runs, by seed. Raises ValueError if there are none."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("seed*/results.json"))]
    if not results:
        raise ValueError(f"no finished run (seed*/results.json) in {folder}: run its script first")
    return sorted(results, key=lambda run: run["seed"])


def summarise(folder):
    """A method's row: name, seeds, (mean, standard deviation) of each column or None."""
    runs = read_group(folder)
    row = {"method": f"{runs[0]['trainer']}, {folder.name.replace('-', ' ')}", "seeds": len(runs)}
    for key, name in COLUMNS.items():
        values = [run["metrics"][key] for run in runs if key in run["metrics"]]
        row[name] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None) if values else None
    row["seconds"] = (statistics.mean(run["seconds"] for run in runs), None)
    return row


def cell(value):
    if isinstance(value, tuple):
        mean, deviation = value
        return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
    return "" if value is None else str(value)


def write_csv(rows, path):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seeds", *(f"{name} {part}" for name in HEADERS[2:] for part in ("mean", "std"))])
        for row in rows:
            pairs = [row[name] or (None, None) for name in HEADERS[2:]]
            writer.writerow([row["method"], row["seeds"], *(value for pair in pairs for value in pair)])


def draw(rows, title, path):
    """Accuracy of each method as a bar, its standard deviation as a whisker."""
    figure = Figure(figsize=(7, 0.5 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    means, deviations = zip(*(row["accuracy"] for row in rows), strict=True)
    colours = ["#0072b2" if row["method"].startswith("SOTGLP") else "#999999" for row in rows]
    whiskers = [deviation or 0 for deviation in deviations]
    axes.barh([row["method"] for row in rows], means, xerr=whiskers, color=colours, capsize=3)
    for i, row in enumerate(rows):
        axes.text(means[i] + whiskers[i] + 0.8, i, cell(row["accuracy"]), va="center")
    axes.invert_yaxis()
    axes.set(xlabel="accuracy in %, mean and standard deviation over seeds", title=title)
    axes.set_xlim(0, min(100, 1.4 * max(means)))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("groups", nargs="+", type=Path, help="folders of runs, one sub-folder a seed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    args = parser.parse_args(argv)
    try:
        rows = [summarise(folder) for folder in args.groups]
        run = read_group(args.groups[0])[0]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    title = f"{run['dataset']}, {run['shots']} shots, {run['backbone']}"
    cells = [[cell(row[name]) for name in HEADERS] for row in rows]
    print(f"\n{title}: accuracy in %, mean ± standard deviation over seeds")
    print(tabulate(cells, HEADERS, disable_numparse=True))
    (args.out / "table.md").write_text(f"{title}\n\n{tabulate(cells, HEADERS, 'github', disable_numparse=True)}\n")
    write_csv(rows, args.out / "table.csv")
    draw(rows, title, args.out / "table.png")
    print(f"\nAlso in {args.out}: table.md, table.csv, table.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

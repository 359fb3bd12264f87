"""Tables of finished runs: ``python -m scripts.table --out FOLDER GROUP...``.

A GROUP is a folder with one sub-folder a seed, each with a results.json. For each number of shots there is a table
of means and standard deviations over the seeds, with the best mean of each column in bold; it is printed, and
written as table.md and table.tex. table.csv has a row for each method, data set and number of shots.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import argparse
import csv
import json
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tabulate import tabulate

from scripts.run import Method, read_methods, shots_text, unique

COLUMNS = {"accuracy": "accuracy", "accuracy_global": "global branch", "accuracy_local": "local branch"}
CSV_COLUMNS = ("method", "dataset", "shots", "mean", "std", "seeds", "seconds")
WIDTH = 100  # columns of the terminal that a table takes at most
PUBLISHED = Path(__file__).with_name("published.csv")
PUBLISHED_BACKBONE = "ViT-B/16"
PUBLISHED_NAMES = {"OxfordFlowers": "Flowers102", "DescribableTextures": "DTD"}  # where they differ from ours
PUBLISHED_DATASETS = (  # those of Average_11
    *("ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "Flowers102", "Food101", "FGVCAircraft", "SUN397"),
    *("DTD", "EuroSAT", "UCF101"),
)


@dataclass
class Group:
    """The runs of a method on one data set with one number of shots.

    seeds are those that there are to be; runs, {seed: its results}, those that are finished.
    """

    method: Method
    dataset: str
    shots: int
    seeds: list
    runs: dict

    @property
    def complete(self):
        return set(self.runs) >= set(self.seeds)

    @property
    def backbone(self):
        return next((run["backbone"] for run in self.runs.values()), "")

    @property
    def seconds(self):
        """Mean seconds of a run, None if none is finished."""
        return statistics.mean(run["seconds"] for run in self.runs.values()) if self.runs else None

    def values(self, metric="accuracy"):
        """{seed: a metric} of the finished runs that have it."""
        return {seed: run["metrics"][metric] for seed, run in self.runs.items() if metric in run["metrics"]}

    def cell(self, metric="accuracy"):
        """Mean and deviation over the seeds, with a note if some are missing; empty if the method lacks the metric."""
        values = list(self.values(metric).values())
        if self.runs and not values:
            return Cell()
        note = "" if self.complete else f"{len(values)} of {len(self.seeds)} seeds"
        return replace(statistic(values), note=note, counts=not note)


@dataclass
class Cell:
    """A mean with its standard deviation, None where there is none; the note says what is missing or compared."""

    mean: float | None = None
    deviation: float | None = None
    note: str = ""
    counts: bool = False  # among those of which the best is in bold
    best: bool = False

    def text(self, bold=str):
        number = "" if self.mean is None else f"{self.mean:.1f}"
        if self.deviation is not None:
            number += f" ± {self.deviation:.1f}"
        number = bold(number) if self.best else number
        return f"{number} ({self.note})" if number and self.note else number or self.note


def read_runs(folder, seeds=None):
    """{seed: results} of the finished runs in a folder, of all seeds that there are if seeds is None."""
    paths = sorted(folder.glob("seed*/results.json")) if seeds is None else []
    paths += [path for seed in seeds or () if (path := folder / f"seed{seed}" / "results.json").is_file()]
    return {run["seed"]: run for run in sorted(map(read_run, paths), key=lambda run: run["seed"])}


def read_run(path):
    """A run's results.json; what an ood.json beside it says is added to the metrics as ood_auroc."""
    run = json.loads(path.read_text(encoding="utf-8"))
    ood = path.with_name("ood.json")
    if ood.is_file():
        scores = json.loads(ood.read_text(encoding="utf-8"))["average"]
        if score := scores.get("GL-MCM") or scores.get("MCM"):
            run["metrics"]["ood_auroc"] = score["AUROC"]
    return run


def read_groups(folders):
    """The groups in folders. Each is to have all seeds of any, but for methods that train nothing.

    Raises:
        ValueError: there is no finished run in a folder, or two folders are of the same method, data set and shots.
    """
    known = {(method.trainer, method.variant): method for method in read_methods().values()}
    groups, places = [], {}
    for folder in folders:
        runs = read_runs(folder)
        if not runs:
            raise ValueError(f"no finished run (seed*/results.json) in {folder}: run its script first")
        run = next(iter(runs.values()))
        name = f"{run['trainer']}, {folder.name.replace('-', ' ')}"
        other = Method(name, run["trainer"], folder.name, trained=run.get("epochs", 1) is not None)
        method = known.get((run["trainer"], folder.name), other)
        group = Group(method, run["dataset"], run["shots"], list(runs), runs)
        place = places.setdefault((method, group.dataset, group.shots), folder)
        if place != folder:
            raise ValueError(f"{place} and {folder} are both {title([group])}, {method.name}: give one of them")
        groups.append(group)
    seeds = sorted({seed for group in groups if group.method.trained for seed in group.runs})
    for group in groups:
        if group.method.trained:
            group.seeds = seeds
    lacking = {
        (other.dataset, group.shots, group.method): replace(group, dataset=other.dataset, runs={})
        for group in groups
        for other in groups
        if group.shots == other.shots and (group.method, other.dataset, group.shots) not in places
    }
    return [*groups, *lacking.values()]


def statistic(values):
    """Mean and sample standard deviation."""
    mean = statistics.mean(values) if values else None
    return Cell(mean, statistics.stdev(values) if len(values) > 1 else None, counts=bool(values))


def average(groups, metric="accuracy"):
    """Mean over data sets of a method's means, with the deviation over seeds of the seeds' averages.

    Only if all runs of all data sets are finished: the average of some is that of another benchmark.
    """
    complete = [group for group in groups if set(group.values(metric)) >= set(group.seeds)]
    if len(complete) < len(groups):
        return Cell(note=f"{len(complete)} of {len(groups)} data sets")
    return statistic([statistics.mean(group.values(metric)[seed] for group in groups) for seed in groups[0].seeds])


def read_published(path=PUBLISHED):
    """{(method, data set, shots): accuracy in %} of the published figures; of several the file's first."""
    published, wanted = {}, ("few_shot_all_classes", "top1", PUBLISHED_BACKBONE)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["protocol"], row["metric"], row["backbone"]) == wanted:
                key = row["method"], row["dataset"], int(row["shots"])
                published.setdefault(key, float(row["value"]))
    return published


def published_row(published, name, groups, shots):
    """Published figures of a method for groups of different data sets, and their average; None where there is none.

    A figure applies to a group whose runs have the backbone of the published ones.
    """
    names = [PUBLISHED_NAMES.get(group.dataset, group.dataset) for group in groups]
    applies = [group.backbone == PUBLISHED_BACKBONE for group in groups]
    figures = [
        published.get((name, dataset, shots)) if fits else None for dataset, fits in zip(names, applies, strict=True)
    ]
    if None not in figures:
        return figures, statistics.mean(figures)
    whole = sorted(names) == sorted(PUBLISHED_DATASETS) and all(applies)
    return figures, published.get((name, "Average_11", shots)) if whole else None


def compare_with(cell, figure):
    """Note beside a mean what is published."""
    if cell.mean is not None and figure is not None:
        difference = f"published {figure:.1f}, {cell.mean - figure:+.1f}"
        cell.note = f"{cell.note}; {difference}" if cell.note else difference


def make_table(groups, published=None):
    """The table of groups with one number of shots.

    Args:
        published: figures as read_published returns them, or None.

    Returns:
        headers, and rows of a method's name and one Cell for each further header.
    """
    methods, datasets = unique(group.method for group in groups), unique(group.dataset for group in groups)
    # Every method has a group for each data set, if need be one without runs.
    find = {(group.method, group.dataset): group for group in groups}
    headers = datasets if len(datasets) > 1 else list(COLUMNS.values())
    headers = ["method", *headers, "average" if len(datasets) > 1 else "seconds a run"]
    rows = []
    for method in methods:
        of_method = [find[method, dataset] for dataset in datasets]
        if len(datasets) > 1:
            row = [*(group.cell() for group in of_method), average(of_method)]
        else:
            row = [*(of_method[0].cell(metric) for metric in COLUMNS), Cell(of_method[0].seconds)]
        if published:
            shots = groups[0].shots if method.trained else 0
            figures, mean = published_row(published, method.published, of_method, shots)
            for i, figure in enumerate([*figures, mean][: len(row) if len(datasets) > 1 else 1]):
                compare_with(row[i], figure)
        rows.append([method.name, *row])
    for column in zip(*(row[1:] for row in rows), strict=True):
        mark_best(column)
    if published:
        rows += rows_of_others(published, groups, datasets, len(headers))
    return headers, rows


def mark_best(cells, best=max):
    """Mark those whose mean, as it is printed, is the best: the largest, or with `best` min the smallest."""
    means = [round(cell.mean, 1) for cell in cells if cell.counts]
    for cell in cells:
        cell.best = cell.counts and round(cell.mean, 1) == best(means)


def rows_of_others(published, groups, datasets, width):
    """Rows of published methods that are not among ours; they are not in bold, which is for what was run here."""
    ours = {group.method.published for group in groups}
    fullest = [max((g for g in groups if g.dataset == name), key=lambda g: len(g.runs)) for name in datasets]
    rows = []
    for name in unique(method for method, _, _ in published):
        zero_shot = all(shots == 0 for method, _, shots in published if method == name)
        figures, mean = published_row(published, name, fullest, 0 if zero_shot else groups[0].shots)
        figures = [*figures, mean] if len(datasets) > 1 else figures
        if name not in ours and any(figure is not None for figure in figures):
            cells = [Cell(figure) for figure in figures]
            rows.append([f"{name} (published)", *cells, *(Cell() for _ in range(width - 1 - len(cells)))])
    return rows


def title(groups):
    """What groups have in common: data set, number of shots, backbone."""
    datasets, shots = unique(group.dataset for group in groups), unique(group.shots for group in groups)
    what = [datasets[0] if len(datasets) == 1 else f"{len(datasets)} data sets"]
    what += [shots_text(shots[0])] if len(shots) == 1 else []
    return ", ".join([*what, *unique(group.backbone for group in groups if group.runs)])


def caption(groups):
    seeds = sorted({seed for group in groups if group.method.trained for seed in group.seeds})
    over = f" over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    return f"{title(groups)}: accuracy in %, mean ± standard deviation{over}"


def texts(rows, bold):
    return [[name, *(cell.text(bold) for cell in cells)] for name, *cells in rows]


def folded(headers, rows, bold=str):
    """Texts of a table that fit WIDTH: columns without room come in a further one, beside the methods' names again."""

    def text(columns, bold):
        lines = [[line[i] for i in (0, *columns)] for line in texts(rows, bold)]
        filled = [line for line in lines if any(line[1:])]
        return tabulate(filled, [headers[i] for i in (0, *columns)], disable_numparse=True)

    parts = [[]]
    for column in range(1, len(headers)):
        wider = [*parts[-1], column]
        if parts[-1] and max(map(len, text(wider, str).splitlines())) > WIDTH:
            parts.append([column])
        else:
            parts[-1] = wider
    return [text(columns, bold) for columns in parts]


def latex(headers, rows, words):
    """A table in booktabs' style, with its words as a comment above."""

    def escape(text):
        return "".join("\\" + letter if letter in "&%#_" else letter for letter in text).replace("±", r"$\pm$")

    cells = [headers, *texts(rows, lambda number: rf"\textbf{{{number}}}")]
    lines = [" & ".join(map(escape, line)) + r" \\" for line in cells]
    columns = "l" + "c" * (len(headers) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([f"% {words}", *body, r"\end{tabular}"])


def csv_lines(groups):
    """CSV_COLUMNS and a line for each group: mean, deviation, number of seeds, mean seconds; None where unknown."""
    lines = [CSV_COLUMNS]
    for group in groups:
        cell = group.cell()
        line = [group.method.name, group.dataset, group.shots, cell.mean, cell.deviation, len(group.runs)]
        lines.append([*line, group.seconds])
    return lines


def show(tables, lines, out):
    """Print tables, and write them as table.md and table.tex into a folder, with table.csv.

    Args:
        tables: of each the words above it, the headers, rows of a name and Cells, and lines below it.
        lines: of table.csv.

    Returns:
        The tables in Markdown.
    """
    from dassl.utils import replacing  # imports torch, which takes seconds, and mistakes are told without it

    markdown, tex = [], []
    plain_or_bold = "\033[1m{}\033[0m".format if sys.stdout.isatty() else str
    for words, headers, rows, notes in tables:
        below = "".join(f"\n{note}" for note in notes)
        print("\n".join(["", words, "\n\n".join(folded(headers, rows, plain_or_bold))]) + below)
        in_bold = tabulate(texts(rows, "**{}**".format), headers, "github", disable_numparse=True)
        markdown.append("\n".join([words, "", in_bold, *(f"\n{note}" for note in notes), ""]))
        tex.append(latex(headers, rows, " ".join([words, *notes])))
    with replacing(out / "table.md") as file:
        file.write("\n".join(markdown))
    with replacing(out / "table.tex") as file:
        file.write("\n\n".join(tex) + "\n")
    with replacing(out / "table.csv", newline="") as file:
        csv.writer(file).writerows(lines)
    print(f"\nAlso in {out}: table.md, table.tex, table.csv")
    return markdown


def write(groups, out, with_published=False):
    """Print the tables, one for each number of shots, and write table.md, table.tex and table.csv into a folder."""
    published = read_published() if with_published else None
    tables = []
    for shots in unique(group.shots for group in groups):
        of_shots = [group for group in groups if group.shots == shots]
        headers, rows = make_table(of_shots, published)
        filled = [i for i in range(len(headers)) if i == 0 or any(row[i].text() for row in rows)]
        headers, rows = [headers[i] for i in filled], [[row[i] for i in filled] for row in rows]
        tables.append((caption(of_shots), headers, rows, []))
    markdown = show(tables, csv_lines(groups), out)
    if with_published and not any("published" in text for text in markdown):
        print(f"\nNo published figure applies: they are for {PUBLISHED_BACKBONE} on {', '.join(PUBLISHED_DATASETS)}.")


def main(argv=None):
    from scripts import plots  # which imports this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", type=Path, metavar="GROUP", help="folder of runs, one sub-folder a seed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--published", action="store_true", help="set published figures beside ours")
    args = parser.parse_args(argv)
    try:
        groups = read_groups(args.groups)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write(groups, args.out, args.published)
    plots.draw_all(groups, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

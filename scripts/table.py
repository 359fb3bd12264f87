"""Make tables of finished runs: python -m scripts.table --out FOLDER GROUP ...

A GROUP is a folder with one subfolder per seed, each with a results.json. For each number of shots, the command prints
a table of means and standard deviations over the seeds, with the best mean of each column in bold. It writes the tables
as table.md and table.tex, and a row per method, data set and number of shots as table.csv.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import csv
import sys

from tabulate import tabulate

from dassl.utils import command, replacing
from scripts.archive import add_archives, beside
from scripts.groups import Cell, average, caption, check_splits, groups_parser, lead, read_groups
from scripts.methods import unique
from scripts.published import PUBLISHED_BACKBONE, PUBLISHED_DATASETS, published_row, read_published

COLUMNS = {"accuracy": "accuracy", "accuracy_global": "global branch", "accuracy_local": "local branch"}
CSV_COLUMNS = ("method", "dataset", "shots", "mean", "std", "seeds", "seconds")
WIDTH = 100  # letters in the longest line of a printed table


def compare_with(cell, figure):
    """Note a published figure beside the mean of a Cell."""
    if cell.mean is not None and figure is not None:
        difference = f"published {figure:.1f}, {cell.mean - figure:+.1f}"
        cell.note = f"{cell.note}; {difference}" if cell.note else difference


def make_table(groups, published=None):
    """Return the table of groups with one number of shots.

    Args:
        groups: list of Group; each method has one for each data set.
        published: figures as read_published returns them, or None.

    Returns:
        (headers, rows); a row is a method's name and one Cell for each further header.
    """
    methods, datasets = unique(group.method for group in groups), unique(group.dataset for group in groups)
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
    """Mark the Cells with the best mean, as it is printed: the largest, or the smallest if `best` is min."""
    means = [round(cell.mean, 1) for cell in cells if cell.counts]
    for cell in cells:
        cell.best = cell.counts and round(cell.mean, 1) == best(means)


def rows_of_others(published, groups, datasets, width):
    """Return rows of published methods that are not among ours. Their figures are never bold.

    Args:
        published: figures as read_published returns them.
        groups: list of Group.
        datasets: names of the data sets, in the table's order.
        width: number of columns.
    """
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


def without_empty_columns(headers, rows):
    """Return headers and rows without the columns in which all cells are empty."""
    filled = [i for i in range(len(headers)) if i == 0 or any(row[i].text() for row in rows)]
    return [headers[i] for i in filled], [[row[i] for i in filled] for row in rows]


def texts(rows, bold):
    """Return rows with the texts of their Cells; `bold` is a function that marks the best numbers."""
    return [[name, *(cell.text(bold) for cell in cells)] for name, *cells in rows]


def folded(headers, rows, bold=str):
    """Return the texts of tables that fit WIDTH, of rows of a name and Cells; `bold` marks the best numbers."""
    return fold(headers, texts(rows, str), texts(rows, bold), disable_numparse=True)


def fold(headers, lines, shown=None, **options):
    """Return the texts of tables that fit WIDTH: columns without room go into a further table, unless all are empty.

    Args:
        headers: the first is that of the names.
        lines: list of lists of cells; "" or None in an empty one.
        shown: the same lines, with letters for the terminal that take no room; `lines` if None.
        **options: of tabulate.
    """

    def text(columns, lines):
        chosen = [[line[i] for i in (0, *columns)] for line in lines]
        filled = [line for line in chosen if any(cell not in ("", None) for cell in line[1:])]
        return tabulate(filled, [headers[i] for i in (0, *columns)], **options)

    parts = [[]]
    for column in range(1, len(headers)):
        wider = [*parts[-1], column]
        if parts[-1] and max(map(len, text(wider, lines).splitlines())) > WIDTH:
            parts.append([column])
        else:
            parts[-1] = wider
    filled = [columns for columns in parts if any(line[i] not in ("", None) for line in lines for i in columns)]
    return [text(columns, shown or lines) for columns in filled or parts[:1]]


def latex(headers, rows, words):
    """Return a LaTeX table in the style of booktabs, with its words as a comment above."""

    def escape(text):
        return "".join("\\" + letter if letter in "&%#_" else letter for letter in text).replace("±", r"$\pm$")

    cells = [headers, *texts(rows, lambda number: rf"\textbf{{{number}}}")]
    lines = [" & ".join(map(escape, line)) + r" \\" for line in cells]
    columns = "l" + "c" * (len(headers) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([f"% {words}", *body, r"\end{tabular}"])


def csv_lines(groups):
    """Return the lines of table.csv: CSV_COLUMNS, and the values of each group; None where unknown."""
    lines = [CSV_COLUMNS]
    for group in groups:
        cell = group.cell()
        line = [group.method.name, group.dataset, group.shots, cell.mean, cell.deviation, len(group.runs)]
        lines.append([*line, group.seconds])
    return lines


def show(tables, lines, out):
    """Print tables, and write table.md, table.tex and table.csv.

    Args:
        tables: list of (words above, headers, rows of a name and Cells, notes below).
        lines: lines of table.csv.
        out: Path of the folder.
    """
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


def write(groups, out, with_published=False):
    """Print a table for each number of shots, and write table.md, table.tex and table.csv.

    Args:
        groups: list of Group.
        out: Path of the folder.
        with_published: whether to show published figures beside ours.

    Raises:
        UserError: The groups were made on different splits.
    """
    check_splits(groups)
    published = read_published() if with_published else None
    tables = []
    for shots in unique(group.shots for group in groups):
        of_shots = [group for group in groups if group.shots == shots]
        headers, rows = without_empty_columns(*make_table(of_shots, published))
        tables.append((caption(of_shots), headers, rows, [sentence for sentence in [lead(of_shots)] if sentence]))
    show(tables, csv_lines(groups), out)
    shown = [text for _, _, rows, _ in tables for line in texts(rows, str) for text in line]
    if with_published and not any("published" in text for text in shown):
        print(f"\nNo published figure applies: they are for {PUBLISHED_BACKBONE} on {', '.join(PUBLISHED_DATASETS)}.")


def parse_args(argv):
    parser = groups_parser(__doc__)
    parser.add_argument("--published", action="store_true", help="show published figures beside ours")
    add_archives(parser)
    return parser.parse_args(argv)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = parse_args(argv)
    write(beside(read_groups(args.groups), args.archive), args.out, args.published)
    return 0


if __name__ == "__main__":
    sys.exit(main())

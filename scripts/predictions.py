"""Forms of predictions as text: a table, CSV, JSON. Each is made piece by piece, so that memory holds one batch."""

import csv
import io
import json
import textwrap

WIDTHS = {"image": 33, "class": 22}  # characters of a column, so that a line has at most 100
BRANCHES = ("combined", "global", "local")


class Table:
    """Lines of a table, at most 100 letters long: one for each image and class. Columns have fixed widths.

    Args:
        score: name of the OOD score.
    """

    def __init__(self, score):
        self.head = [*WIDTHS, "%", "global", "local", score, "OOD"]
        self.widths = [*WIDTHS.values(), 5, 6, 6, max(8, len(score)), 3]

    def start(self):
        return f"{self.line(self.head)}\n{self.line('-' * width for width in self.widths)}\n"

    def text(self, records):
        lines = []
        for record in records:
            ood = f"{record['ood']:.4f}", {None: "", True: "yes", False: "no"}[record["is_ood"]]
            for rank, entry in enumerate(record["classes"]):
                image = shorten(record["image"], "image", end=True) if rank == 0 else ""
                percent = ["" if entry[name] is None else f"{100 * entry[name]:.1f}" for name in BRANCHES]
                cells = [image, shorten(entry["class"], "class"), *percent, *(ood if rank == 0 else ("", ""))]
                lines.append(f"{self.line(cells)}\n")
        return "".join(lines)

    def end(self):
        return ""

    def line(self, cells):
        """Return cells in one line, the numbers at the right of their columns."""
        pairs = enumerate(zip(cells, self.widths, strict=True))
        return "  ".join(f"{cell:>{w}}" if 2 <= i <= 5 else f"{cell:<{w}}" for i, (cell, w) in pairs).rstrip()


class CSVLines:
    """Lines of a CSV file, as Table; no spreadsheet takes a cell for a formula."""

    def __init__(self, score):
        self.score = score

    def start(self):
        return self.lines([["image", "rank", "class", *BRANCHES, self.score, "is_ood"]])

    def text(self, records):
        return self.lines(
            [record["image"], rank, *entry.values(), record["ood"], record["is_ood"]]
            for record in records
            for rank, entry in enumerate(record["classes"], start=1)
        )

    def end(self):
        return ""

    @staticmethod
    def lines(rows):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([map(harmless, row) for row in rows])
        return text.getvalue()


def harmless(cell):
    """Return a cell that no spreadsheet runs: an apostrophe stands before a text that would be a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


class JSONList:
    """A list in JSON, as Table."""

    def __init__(self, score):
        self.between = ""

    def start(self):
        return "["

    def text(self, records):
        parts = []
        for record in records:
            text = json.dumps(record, indent=2, ensure_ascii=False)
            parts.append(f"{self.between}\n{textwrap.indent(text, '  ')}")
            self.between = ","
        return "".join(parts)

    def end(self):
        return "\n]\n" if self.between else "]\n"


def shorten(text, column, end=False):
    """Return the text cut to the width of a column: its start, or its end if `end` is true."""
    width = WIDTHS[column]
    if len(text) <= width:
        return text
    return f"…{text[1 - width :]}" if end else f"{text[: width - 1]}…"

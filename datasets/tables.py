"""Tables of images as spreadsheets write them: with any encoding and separator, and columns in any order."""

import csv
import io
import os.path as osp
import unicodedata
from collections import defaultdict

from dassl.utils import UserError, listdir_nohidden
from datasets.files import SPLIT_WORDS, check_name

COLUMNS = ("path", "label", "split")
LATIN = "cp1252"  # of which Latin-1 is a part
SEPARATORS = ",;\t|"
ENDS = (".csv", ".tsv")
SHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def find_table(folder):
    """Return the path of the one table in a folder.

    Raises:
        FileNotFoundError: There is none.
        UserError: There are several.
    """
    names = listdir_nohidden(folder, sort=True)
    files = [name for name in names if name.lower().endswith(ENDS)]
    if not files:
        sheets = [name for name in names if name.lower().endswith(SHEETS)]
        hint = f"save {sheets[0]} as CSV" if sheets else f"it should hold one with columns {', '.join(COLUMNS)}"
        raise FileNotFoundError(f"no .csv file in {folder}: {hint}")
    if len(files) > 1:
        raise UserError(f"{folder} should hold one .csv file, got {', '.join(files)}: move the others away")
    return osp.join(folder, files[0])


def decode(path):
    """Return the text of a file, and the name of its encoding if that is neither UTF-8 nor marked by the file.

    Raises:
        UserError: It is no text.
    """
    with open(path, "rb") as file:
        content = file.read()
    marked = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
    for encoding in [*(name for mark, name in marked.items() if content.startswith(mark)), "utf-8", LATIN]:
        try:
            text = content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
        if all(letter in "\t\n" or unicodedata.category(letter) != "Cc" for letter in set(text)):
            return text, "Windows-1252 (Latin-1)" if encoding == LATIN else ""
        break
    raise UserError(f"{path} is not a readable CSV file (it holds bytes of no text): save it anew as CSV, in UTF-8")


def read_table(path):
    """Return the rows of a table, and what to say of it.

    Returns:
        A list of dicts {"line", "path", "label", "split"}, where "split" is train, val or test, or missing in all if
        there is no such column, and paths have slashes; and a list of lines to say.

    Raises:
        UserError: The file is not readable, a column is missing, a line is wrong, or two labels may be one.
    """
    text, encoding = decode(path)
    said = [f"{osp.basename(path)} is not in UTF-8: it is read as {encoding}"] if encoding else []
    skipped = 0
    if text[:4].lower() == "sep=":  # a line that Excel writes and reads
        text, skipped = text.partition("\n")[2], 1
    head = text.partition("\n")[0]
    separator = max(SEPARATORS, key=lambda mark: sum(name in COLUMNS for name in columns_of(head, mark)))
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=False)
        names = columns_of(head, separator)
        for column in COLUMNS[:2]:
            if column not in names:
                got = ", ".join(filter(None, names)) or "nothing"
                raise UserError(f"{path} has no column {column}: the first line should be path,label,split, got {got}")
        next(lines, None)
        rows = []
        for cells in lines:
            if any(cell.strip() for cell in cells):
                row = dict(zip(names, cells, strict=False))
                rows.append(checked(path, lines.line_num + skipped, row, "split" in names))
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error}): save it anew") from error
    if not rows:
        raise UserError(f"{path} has no images")
    check_labels(path, rows)
    return rows, said


def columns_of(line, separator):
    """Return the names in the first line of a table, in small letters."""
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=separator), [])]


def checked(path, line, row, has_splits):
    """Return a row with a known split and a path with slashes.

    Args:
        path: Path of the table, for the error message.
        line: Number of its line.
        row: {column: cell}.
        has_splits: Whether the table has the column split.

    Raises:
        UserError: A cell is empty or no split.
    """
    values = {column: row.get(column) or "" for column in COLUMNS[: 2 + has_splits]}
    image = values["path"].strip()
    split = SPLIT_WORDS.get(values.get("split", "train").strip().lower())
    if not (image and values["label"].strip() and split):
        needed = "a path, a label and a split of train, val, test" if has_splits else "a path and a label"
        raise UserError(f"{path}, line {line}: need {needed}")
    if "\\" in image and not osp.exists(osp.join(osp.dirname(path), image)):
        image = image.replace("\\", "/")  # as Windows writes it
    return {
        "line": line,
        "path": check_name(path, image),
        "label": values["label"],
        "split": split if has_splits else "",
    }


def check_labels(path, rows):
    """Strip the labels of rows.

    Raises:
        UserError: Two labels differ only in case or in blanks.
    """
    alike = defaultdict(dict)
    for row in rows:
        alike["".join(row["label"].lower().split())].setdefault(row["label"], row["line"])
    for labels in alike.values():
        if len(labels) > 1:
            (one, line), (other, other_line), *_ = labels.items()
            raise UserError(
                f'{path}: is "{one}" (line {line}) the same class as "{other}" (line {other_line})? Write both in the '
                "same way, or choose names that differ in more than case and blanks"
            )
    for row in rows:
        row["label"] = row["label"].strip()

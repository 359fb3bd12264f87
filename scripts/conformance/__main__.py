"""Check our trainers against numbers of published code: python -m scripts.conformance FILE.npz ...

A file holds a small CLIP, images, hyper-parameters (meta), start values, and what the published code of a method
computes from them: features, logits, losses, gradients, optimizer steps. The command builds our trainer with these
settings, computes everything again, and prints the largest errors. It then computes in other ways, which must give the
same: with the prompts in parts (TRAINER.MEMORY_BUDGET), with the classes in parts, with kept features of the images, in
two processes, and on a GPU in mixed precision, where more error is allowed.

Exit code: 0 all quantities agree, 1 an error is too large, 2 a file is unusable, 130 interrupted.
"""

import sys

from tabulate import tabulate

from dassl.utils import Parser, command

HEADERS = ["quantity", "largest error", "relative", "tolerance", ""]


@command
def main(argv=None):
    """Run the command and return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="file of reference numbers")
    paths = parser.parse_args(argv).files
    from scripts.conformance.files import ReferenceFile

    files = [ReferenceFile(path) for path in paths]  # reports a wrong path before our trainers are imported
    from scripts.conformance.ways import WAYS, check, in_two_processes

    failed = 0
    for file in files:
        rows, unknown = check(file)
        table = [(*row, "ok" if row.passed else "FAILED") for row in rows]
        print(f"{file.method}: {file.path}")
        print(tabulate(table, HEADERS, floatfmt=("", ".1e", ".1e", ".0e")))
        if unknown:
            print(f"unknown quantities, not checked: {', '.join(sorted(unknown))}")
        failed += report("as trained", rows)
        for way in WAYS:
            failed += report(way, check(file, way)[0])
        print()
    for path, rows in in_two_processes(paths).items():
        failed += report(f"{path} in two processes", rows)
    return 1 if failed else 0


def report(way, rows):
    """Print how many rows of a way agree and which is worst; return the number of those that do not."""
    from scripts.conformance.rows import worst

    wrong = sum(not row.passed for row in rows)
    if rows:
        row = worst(rows)
        end = f"the worst is {row.quantity}: {row.relative:.1e} of {row.tolerance:.0e}"
        print(f"{way}: {len(rows) - wrong} of {len(rows)} quantities agree, {end}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())

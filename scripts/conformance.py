"""Check this implementation against reference numbers: python -m scripts.conformance FILE.npz

The file holds a CLIP in OpenAI's format (clip/*), meta (JSON), images, targets and start values, and the outputs of a
reference implementation, as in tests/data/sotglp_reference.npz. The command computes all outputs again with the code
that training uses, and prints a table of the largest errors.

Exit code: 0 all quantities agree, 1 an error is too large, 2 the file is unusable, 130 interrupted.
"""

import sys
import zipfile

from tabulate import tabulate

from dassl.utils import Parser, UserError, command


@command
def main(argv=None):
    """Run the command and return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("file", help="file of reference numbers")
    path = parser.parse_args(argv).file
    try:
        with zipfile.ZipFile(path):  # reports a wrong path before these are imported
            import numpy as np

            from scripts.reference import INPUTS, conformance
        with np.load(path, allow_pickle=False) as archive:
            file = dict(archive)
        rows = conformance(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no reference file: {error}") from error
    table = [(*row, "ok" if row.passed else "FAILED") for row in rows]
    headers = ["quantity", "largest error", "relative", "tolerance", ""]
    print(tabulate(table, headers, floatfmt=("", ".1e", ".1e", ".0e")))
    failed = sum(not row.passed for row in rows)
    unknown = {key for key in file if not key.startswith("clip/")} - INPUTS - {row.quantity for row in rows}
    if unknown:
        print(f"unknown quantities, not checked: {', '.join(sorted(unknown))}")
    print(f"{len(rows) - failed} of {len(rows)} quantities agree with {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

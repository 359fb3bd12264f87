"""Time the README's first command with a warm start of its runs and with a cold one: python -m benchmarks.comparison

Warm: runs are forks of a process that has imported torch, open_clip and the plugins. Cold: each run is a new process
that imports them. --before FOLDER adds the comparison of another checkout, such as one of an older commit. All start in
new folders, with the data set unpacked. They take turns; a ratio compares runs of one turn. Their tables must be the
same to the digit. It takes 12 minutes on 2 cores.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from benchmarks.measure import benchmark_parser, seconds_of, write_json
from dassl.utils import command

HERE = Path(__file__).parents[1]
COMPARE = "import sys; from scripts import compare; sys.exit(compare.main(sys.argv[1:]))"
COLD = f"from scripts import processes; processes.FORKS = False; {COMPARE}"


def compare(checkout, code, folder, name, words, seeds):
    """Compare the core methods.

    Args:
        checkout: of the code to run.
        code: that starts the comparison.
        folder: of the data and the results.
        name: of the results' folder.
        words: arguments of the comparison.
        seeds: its seeds.

    Returns:
        The seconds, and the rows of the table without its seconds.
    """
    places = {"DATA": str(folder / "data"), "OUTPUT": str(folder / name), "SEEDS": seeds}
    arguments = [sys.executable, "-c", code, *words]
    start = {"env": {**os.environ, **places}, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    seconds, process = seconds_of(lambda: subprocess.run(arguments, cwd=checkout, **start))
    if process.returncode:
        raise RuntimeError(f"the comparison ended with exit code {process.returncode}:\n{process.stdout[-2000:]}")
    (table,) = (folder / name).rglob("compare_*/table.csv")
    with table.open(newline="", encoding="utf-8") as file:
        return seconds, [{**row, "seconds": None} for row in csv.DictReader(file)]


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--before", type=Path, help="folder of another checkout")
    parser.add_argument("--turns", type=int, default=2, help="comparisons of each kind (2)")
    parser.add_argument("--seeds", default="1 2 3", help="seeds of the runs (1 2 3)")
    parser.add_argument("--epochs", type=int, help="of a run; by default the method's")
    args = parser.parse_args(argv)
    words = ["fashion_mnist", "16", *(["OPTIM.MAX_EPOCH", str(args.epochs)] if args.epochs else [])]
    starts = {"cold": (HERE, COLD), "warm": (HERE, COMPARE)}
    if args.before:
        starts["before"] = args.before, COMPARE
    runs, tables = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = ["--method", "zero-shot CLIP", "fashion_mnist", "1"]
        compare(HERE, COMPARE, folder, "first", first, "1")  # not counted: it unpacks the data set
        for turn in range(args.turns):
            for start, (checkout, code) in starts.items():
                seconds, table = compare(checkout, code, folder, f"{start}_{turn}", words, args.seeds)
                runs.append({"turn": turn, "start": start, "seconds": seconds})
                tables.append(table)
                print(f"turn {turn + 1} of {args.turns}, {start}: {seconds:.1f} s", flush=True)
    seconds = {start: [run["seconds"] for run in runs if run["start"] == start] for start in starts}
    rows = []
    for start, values in seconds.items():
        ratios = (warm / other for warm, other in zip(seconds["warm"], values, strict=True))
        rows.append((start, statistics.median(values), statistics.median(ratios)))
    print(tabulate(rows, ["start of the runs", "seconds", "warm over it"], floatfmt=("", ".1f", ".2f")))
    print("The tables are the same." if all(table == tables[0] for table in tables) else "THE TABLES DIFFER.")
    write_json(runs, args.json)
    return 0 if all(table == tables[0] for table in tables) else 1


if __name__ == "__main__":
    sys.exit(main())

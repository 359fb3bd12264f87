"""Time a short training on an idle machine and beside a busy process, by how long OpenMP's threads spin.

python -m benchmarks.busy: SOT-GLP with the small CLIP on Fashion-MNIST, 4 shots, as scripts/sotglp/main.sh starts it.
Threads that wait spin for a while before they sleep (GOMP_SPINCOUNT): never, as dassl sets it, or for milliseconds,
which is libgomp's default. The busy process multiplies matrices with two threads. All cases are run in turn; a ratio
compares runs of one turn. Seconds are those of training and test. It takes 4 minutes on 2 cores.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from tabulate import tabulate

from benchmarks.measure import benchmark_parser, write_json
from dassl import OPENMP
from dassl.utils import command

SPINS = {"as dassl sets it": OPENMP["GOMP_SPINCOUNT"], "never": "0", "libgomp's default": "300000"}
MACHINES = ("idle", "busy")
# It ends with the benchmark, however that ends.
NEIGHBOUR = """
import os, torch
torch.set_num_threads(2)
a = torch.randn(1024, 1024)
print("busy", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    a @ a
"""


@contextlib.contextmanager
def neighbour():
    """Keep two threads of another process busy."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()  # it is busy from here on
        yield
    finally:
        process.kill()
        process.communicate()


def train(folder, name, spins, epochs):
    """Train in a process of its own; return the seconds of training and test."""
    places = {"DATA": str(folder / "data"), "OUTPUT": str(folder / name), "FEATURES": "", "SEEDS": "1"}
    environment = {**os.environ, **places, **OPENMP, "PYTHON": sys.executable, "GOMP_SPINCOUNT": spins}
    arguments = ["bash", "scripts/sotglp/main.sh", "fashion_mnist", "4", "OPTIM.MAX_EPOCH", str(epochs)]
    process = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if process.returncode:
        raise RuntimeError(f"the training ended with exit code {process.returncode}:\n{process.stdout[-2000:]}")
    (results,) = (folder / name).rglob("results.json")
    return json.loads(results.read_text(encoding="utf-8"))["seconds"]


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--turns", type=int, default=3, help="trainings of each case")
    parser.add_argument("--epochs", type=int, default=5, help="of a training")
    args = parser.parse_args(argv)
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder, "first", "0", 1)  # not counted: it unpacks the data set
        for turn, machine, spins in product(range(args.turns), MACHINES, SPINS):
            with neighbour() if machine == "busy" else contextlib.nullcontext():
                seconds = train(folder, f"{turn}_{machine}_{SPINS[spins]}", SPINS[spins], args.epochs)
            runs.append({"turn": turn, "machine": machine, "threads spin": spins, "seconds": seconds})
            print(f"turn {turn + 1} of {args.turns}, {machine}, {spins}: {seconds:.1f} s", flush=True)
    print(table(runs))
    write_json(runs, args.json)


def table(runs):
    """Return a line for each case: the median, and the median ratio to the first case of the machine."""
    seconds, first = {}, next(iter(SPINS))
    for run in runs:
        seconds.setdefault((run["machine"], run["threads spin"]), []).append(run["seconds"])
    rows = []
    for (machine, spins), of_case in seconds.items():
        ratios = [a / b for a, b in zip(of_case, seconds[machine, first], strict=True)]
        rows.append([machine, spins, statistics.median(of_case), statistics.median(ratios)])
    return tabulate(rows, ["machine", "threads spin", "seconds", "ratio"], floatfmt=".2f")


if __name__ == "__main__":
    sys.exit(main())

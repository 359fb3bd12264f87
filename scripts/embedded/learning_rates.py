"""Choose the methods' learning rates for the small CLIP, by one rule: python -m scripts.embedded.learning_rates

A method's rate is the best of the published one times 1, 5, 25, 100 and 500: the largest accuracy on the validation
images of Fashion-MNIST at 16 shots after 30 epochs, as the mean over seeds 11 and 12 and over the variants of the
trainer. Of equals it is the smallest. No test image is read. The command trains all methods whose small.yaml has a
learning rate, and prints a table of the accuracies in %. What stands in small.yaml is set by hand from it.

Finished runs are skipped, and stopped ones continue. A run whose loss overflows fails, and leaves its cell empty.
Settings come from the environment, as for scripts.compare.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import statistics
import sys
from dataclasses import replace

from tabulate import tabulate

from dassl.config import read_flat
from dassl.utils import Parser, command
from scripts.execution import carry_out, configurations, jobs_and_threads
from scripts.groups import read_run
from scripts.methods import CONFIGS, METHODS, choose_methods, read_yaml, unique
from scripts.run import make_runs

FACTORS = (1, 5, 25, 100, 500)
DATASET, SHOTS, SEEDS = "fashion_mnist", 16, (11, 12)
OPTIONS = ("OPTIM.MAX_EPOCH", "30", "TEST.SPLIT", "val")


def rates(trainer):
    """Return the learning rates to try; none for a trainer whose small.yaml has none."""
    files = {name: CONFIGS / "trainers" / trainer / f"{name}.yaml" for name in ("default", "small")}
    if not files["small"].is_file() or "LR" not in read_yaml(files["small"]).get("OPTIM", {}):
        return ()
    published = float(read_flat(files["default"], SHOTS)["OPTIM.LR"])
    return tuple(float(f"{published * factor:.6g}") for factor in FACTORS)


def at_rate(method, rate):
    """Return the method with a learning rate, and a folder of its own for the results."""
    options = (*method.options, "OPTIM.LR", f"{rate:g}")
    name, variant = f"{method.name}, learning rate {rate:g}", f"{method.variant}-lr{rate:g}"
    return replace(method, name=name, variant=variant, options=options)


def best(accuracies):
    """Return the rate with the largest accuracy of {rate: accuracy}, the smallest of equals; None is no accuracy."""
    known = {rate: value for rate, value in accuracies.items() if value is not None}
    return max(sorted(known), key=known.get) if known else None


def report(tried):
    """Print the table.

    Args:
        tried: {trainer: {rate: list of Run}}.
    """
    rows = []
    for trainer, by_rate in tried.items():
        means = {rate: mean_accuracy(runs) for rate, runs in by_rate.items()}
        cells = ["" if mean is None else f"{mean:.2f}" for mean in means.values()]
        rows.append([trainer, min(by_rate), *cells, best(means)])
    factors = [f"times {factor}" for factor in FACTORS]
    print(tabulate(rows, ["trainer", "published rate", *factors, "chosen"], "github", disable_numparse=True))


def mean_accuracy(runs):
    """Return the mean of all runs' accuracies, or None if one is missing."""
    if not all(run.finished for run in runs):
        return None
    return statistics.mean(read_run(run.folder)["metrics"]["accuracy"] for run in runs)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("--method", action="append", help="name of a method, or all (the default); may be repeated")
    args = parser.parse_args(argv)
    methods = [method for method in choose_methods(METHODS, args.method or ["all"]) if rates(method.trainer)]
    tried = {}
    for trainer in unique(method.trainer for method in methods):
        tried[trainer] = {
            rate: make_runs(
                [at_rate(m, rate) for m in methods if m.trainer == trainer], [DATASET], [SHOTS], OPTIONS, SEEDS
            )
            for rate in rates(trainer)
        }
    runs = [run for by_rate in tried.values() for some in by_rate.values() for run in some]
    jobs, threads = jobs_and_threads()
    configurations(runs)
    plan = f"{len(runs)} runs, {sum(run.finished for run in runs)} of them finished before"
    return carry_out(plan, runs, lambda: report(tried), jobs, threads)


if __name__ == "__main__":
    sys.exit(main())

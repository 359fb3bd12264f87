"""Estimate what the field's whole table costs: python -m benchmarks.cost; it trains nothing

All methods of configs/comparisons/methods.yaml on the 11 data sets at 1, 2, 4, 8 and 16 shots with three seeds, by
their published recipes. The steps are counted from the configurations. Seconds a step are assumptions for a GPU:

prompts      prompts beside frozen towers: SOT-GLP's measured step on an H100 (docs/speed.md), for every method
towers       something learned in the image tower, too: three times that
features     a classifier on kept features

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import sys
from collections import defaultdict

from tabulate import tabulate

from benchmarks.measure import benchmark_parser, write_json
from dassl.utils import command

# Classes of each data set, as its paper or its split in the CoOp family says.
CLASSES = {"imagenet": 1000, "caltech101": 100, "oxford_pets": 37, "stanford_cars": 196, "oxford_flowers": 102}
CLASSES |= {"food101": 101, "fgvc_aircraft": 100, "sun397": 397, "dtd": 47, "eurosat": 10, "ucf101": 101}
SHOTS = ("1", "2", "4", "8", "16")
FEATURES = ("TipAdapter", "TipAdapterF", "LinearProbe", "GDA", "CLAP", "LPPP", "ZeroshotCLIP", "ZeroshotCLIP2")
TOWERS = ("MaPLe", "PromptSRC", "CLIPLoRA", "PLOTPP", "TwoSFS")


def kind_of(trainer):
    """Return the kind of a trainer's steps."""
    return "features" if trainer in FEATURES else "towers" if trainer in TOWERS else "prompts"


def steps_of(run, cfg):
    """Return the training steps of a run: the loader drops an incomplete last batch, unless it is the only one."""
    if not run.method.trained:
        return 0
    images = run.shots * CLASSES[run.dataset]
    return cfg.OPTIM.MAX_EPOCH * max(images // cfg.DATALOADER.TRAIN_X.BATCH_SIZE, 1)


@command
def main(argv=None):
    """Print the table; return the exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--prompts", type=float, default=0.112, help="seconds a step (0.112)")
    parser.add_argument("--towers", type=float, default=0.336, help="seconds a step (0.336)")
    parser.add_argument("--features", type=float, default=0.005, help="seconds a step (0.005)")
    parser.add_argument("--start", type=float, default=15.0, help="seconds of a run beside its steps (15)")
    parser.add_argument("--gpus", type=int, default=8)
    args = parser.parse_args(argv)
    from scripts.execution import configurations  # here, as it takes seconds
    from scripts.methods import read_methods
    from scripts.run import make_runs

    methods = list(read_methods().values())
    configs = configurations(make_runs(methods, list(CLASSES), SHOTS, seeds=[1, 2, 3]))
    runs, steps, hours = defaultdict(int), defaultdict(int), defaultdict(float)
    for run, cfg in configs.items():
        kind, number = kind_of(run.method.trainer), steps_of(run, cfg)
        runs[kind] += 1
        steps[kind] += number
        hours[kind] += (number * getattr(args, kind) + args.start) / 3600
    rows = [[kind, runs[kind], steps[kind] / 1e6, hours[kind]] for kind in ("prompts", "towers", "features")]
    rows.append(["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))])
    print(tabulate(rows, ["steps on", "runs", "million steps", "GPU hours"], floatfmt=",.1f", intfmt=","))
    print(f"On {args.gpus} GPUs: {rows[-1][-1] / args.gpus:.0f} hours, if the runs fill them")
    write_json(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())

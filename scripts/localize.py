"""Measure whether methods look at the object: python -m scripts.localize GROUP ...

A GROUP is a folder of runs on Scenes, one subfolder per seed, as scripts/compare.sh leaves it. On the test images the
box of the object is known. The command prints, for each method that reads patches, the accuracy in %, and of the true
class:

  support in the box   share of the K patches of the support that lie in the box, in %
  best patch in it     how often the patch most similar to the class lies there, in %
  overlap              mass that pairs of prompts have in common, from 0 to 1 (all the same)
  entropy              of a patch's shares over log N, from 0 (one prompt has the patch) to 1

A patch lies in the box if its centre does. A method without a support has the 10 patches most similar to the class.
Overlap and entropy are of the transport plan, if there is one. Figures are means over the classes, then over the seeds,
with the standard deviation of the seeds.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import sys
from pathlib import Path

from tabulate import tabulate

from dassl.utils import Parser, UserError, command, user_input
from scripts.groups import over_seeds, read_groups, statistic, title

COLUMNS = ("support in the box", "best patch in it", "overlap", "entropy")


def measure(runs, root):
    """Return [{column: value}] of the runs of a method; nothing if it reads no patches."""
    from scripts.localization import localize  # here, as it imports torch, which takes seconds

    found = [localize(run.trainer(root)) for run in runs]
    return [values for values in found if values]


@command
def main(argv=None):
    """Run the command and return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("groups", nargs="+", type=Path, metavar="GROUP", help="folder of runs, one subfolder per seed")
    parser.add_argument("--root", help="folder of the data sets; by default the runs'")
    args = parser.parse_args(argv)
    with user_input():
        groups = [group for group in read_groups(args.groups) if group.runs]
        other = [group.folder for group in groups if group.dataset != "Scenes"]
        if other:
            raise UserError(f"{other[0]} has no runs on Scenes: only there the boxes of the objects are known")
    rows, chance = [], None
    for group in groups:
        found = measure(group.finished_runs(), args.root)
        if found:
            chance = found[0]["chance"]
            cells = [statistic([values[c] for values in found if c in values]) for c in COLUMNS]
            digits = [1, 1, 2, 2]
            texts = [cell.text(digits=n) for cell, n in zip(cells, digits, strict=True)]
            rows.append([group.method.name, group.cell().text(), *texts])
    if not rows:
        raise UserError("none of these methods reads patches")
    print(": ".join(filter(None, [title(groups), over_seeds(groups)])))
    print(tabulate(rows, ["method", "accuracy", *COLUMNS], tablefmt="github", disable_numparse=True))
    print(f"Of all patches {chance:.1f} % lie in the box.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Pretrain the small CLIP on emoji and icons: pictures and their parts matched to captions.

python -m scripts.embedded.pretrain --out data/embedded/small.safetensors

It reads what make_data.py wrote to data/embedded, and runs on a GPU if there is one. Every --save-every steps the
state goes to OUT.checkpoint. The same command continues an interrupted run from there, to another number of steps if
--steps is changed. A step's randomness depends on the seed and the step only. Two seeds at once take 77 minutes on 2
cores.

A step draws canvases with one object, of which it keeps 26 of the 64 patches until the last 15 % of the steps, and
canvases with up to four. The class token is matched to captions of what the canvas shows, the mean V-V patch of each
object to the object's own caption; both are told apart by categories, and each caption should find its object among
the others. The first quarter of the steps draws coloured emoji alone.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import os
import sys
from pathlib import Path

from dassl.utils import Parser, command
from scripts.processes import MALLOC


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/embedded"), help="folder that make_data.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--steps", type=int, default=10_000, help="training steps")
    parser.add_argument("--singles", type=int, default=80, help="canvases of a step with one object")
    parser.add_argument("--collages", type=int, default=20, help="canvases of a step with up to four objects")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of the matrices")
    parser.add_argument("--seed", type=int, default=1, help="of weights, pictures and captions")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints")
    return parser.parse_args(argv)


@command
def main(argv=None):
    """Run the command; return its exit code."""
    args = parse_args(argv)
    from scripts.embedded.pretraining import pretrain  # here, as it imports torch, which takes seconds

    pretrain(args)


if __name__ == "__main__":
    if not MALLOC.keys() <= os.environ.keys():
        # glibc and OpenMP read these when a process starts, before any line of this file.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**MALLOC, **os.environ})
    sys.exit(main())

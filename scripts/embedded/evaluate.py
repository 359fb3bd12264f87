"""Measure what the small CLIP can do on pictures that it has never seen, without any prompt learning.

python -m scripts.embedded.evaluate [--weights FILE ...] [--root data] [--part test]

Prints, in %: zero-shot accuracies ("a photo of a NAME.") on Emoji, by style, on Fashion-MNIST and on Scenes, from the
image feature and from the mean V-V patch feature; how often the patch most like the true class lies in its box, on
Scenes; the AUROC of the largest class probability (MCM) on other kinds of pictures; and the accuracy of a 16-shot
linear probe on Fashion-MNIST over three draws. No choice was made on the test pictures; recipes of pretraining are
chosen by --part validation: the training and validation images, and half of the pictures of other kinds.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import contextlib
import io
import sys
from pathlib import Path

from tabulate import tabulate

from dassl.utils import Parser, command, user_input


@command
def main(argv=None):
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--weights", nargs="+", default=["small"], help="weights files, a column each; by default the package's"
    )
    parser.add_argument("--root", default="data", help="folder of the data sets")
    parser.add_argument("--part", default="test", choices=("test", "validation"), help="pictures to measure on (test)")
    args = parser.parse_args(argv)
    from scripts.embedded.evaluation import evaluate  # here, as it imports torch, which takes seconds
    from sotglp import load_clip

    with user_input():
        clips = [load_clip(name) for name in args.weights]
    with contextlib.redirect_stdout(io.StringIO()):  # the readers' and transforms' lines
        columns = [evaluate(clip, args.root, args.part) for clip in clips]
    rows = [[what, *(column[what] for column in columns)] for what in columns[0]]
    print(tabulate(rows, [f"{args.part} pictures", *(Path(name).stem for name in args.weights)], "github", ".1f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

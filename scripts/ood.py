"""Evaluate OOD detection of a trained run: python -m scripts.ood RUN_FOLDER [--sets SET ...]

The run's test images (TEST.SPLIT) are in-distribution. The command scores them and the images of each OOD set, prints
AUROC and FPR95 in percent, and writes both with histograms as ood.json beside the run's results.json.

A larger score means more out-of-distribution. In-distribution is the positive class: FPR95 is the share of OOD images
at or below the threshold that keeps 95 % of the in-distribution images. Near sets have tables of their own.

MCM is from arXiv 2211.13445, L-MCM and GL-MCM are from arXiv 2304.04521. For a method that reads no patches, these two
use the values of the last block, as in their paper. NegLabel (arXiv 2403.20078) compares an image with far words of
WordNet, too, which the frozen text tower reads. Two variants are ours: L-NegLabel is that of the best patch, and
P-NegLabel reads the words in the method's own prompts, if classes share them.

Three scores of a transport plan are ours, too. They are of the class with the largest local logit: PlanLogit is the
negative of that logit, PlanEntropy the plan's entropy, and OffSupport the share of patches outside the support in the
softmax over all. A cell is empty if the method does not have the score.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import sys
from pathlib import Path

from dassl.config import read_config
from dassl.finished import FinishedRun
from dassl.utils import Parser, UserError, command, user_input, write_json
from datasets.ood import NEAR, OOD_SETS, SHIFTED
from scripts.ood_sets import DEFAULT_SETS, EMBEDDED_OOD, METRICS, SCORES, far_and_near, read_sets, read_shifted, spectra
from scripts.table import fold


def table(results):
    """Return tables for each metric, with a row for each set and for their averages, and a column for each score.

    Near sets stand apart, and so does the full spectrum.
    """
    texts = []
    for spectrum, separated in spectra(results).items():
        far, near = far_and_near(separated["sets"])
        kinds = {"": (far, separated["average"]), "near": (near, separated.get("near"))}
        for kind, (names, average) in kinds.items():
            by_name = {name: separated["sets"][name] for name in names} | {"average": average}
            for metric in METRICS if names else ():
                rows = [
                    [name, results["images"].get(name), *(by.get(score, {}).get(metric) for score in SCORES)]
                    for name, by in by_name.items()
                ]
                header = ", ".join(filter(None, [metric, kind, spectrum]))
                texts += fold([header, "images", *SCORES], rows, floatfmt=".2f", maxcolwidths=[30])
    return "\n\n".join(texts)


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument(
        "--sets",
        nargs="+",
        metavar="SET",
        help=f"{', '.join(OOD_SETS)} (near: {', '.join(NEAR)}); {' or '.join(EMBEDDED_OOD)} for embedded OOD pictures, "
        "a set per kind; or a folder of images, or a list of them (.txt). Default: Emoji for runs on Emoji and "
        "FashionMNIST, Scenes for runs on Scenes, the first four for runs on ImageNet",
    )
    parser.add_argument(
        "--shifted",
        nargs="+",
        default=[],
        metavar="SET",
        help=f"other pictures of the run's classes: {', '.join(SHIFTED)}, or folders or lists. In further tables, of "
        "the full spectrum, they are in-distribution",
    )
    parser.add_argument("--root", help="folder of the data sets; by default the run's")
    parser.add_argument("--temperature", type=float, default=1.0, help="softmax temperature of the MCM scores (1)")
    args = parser.parse_args(argv)
    if not 0 < args.temperature < float("inf"):
        raise UserError(f"--temperature must be a positive number, got {args.temperature}")
    return args


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = parse_args(argv)
    read_config(args.run)  # reports a folder that is no run before torch is imported
    from scripts.ood_evaluation import evaluate
    from sotglp.toolbox.loading import check_kind

    with user_input():
        run = FinishedRun(args.run)
        check_kind(run)
        names = args.sets or DEFAULT_SETS.get(run.cfg.DATASET.NAME)
        if names is None:
            raise UserError(f"{run.cfg.DATASET.NAME} has no OOD sets of its own: give some with --sets (see --help)")
        root = args.root or run.cfg.DATASET.ROOT
        sets, shifted = read_sets(names, root), read_shifted(args.shifted, root)
        trainer = run.trainer(args.root)
    results = evaluate(trainer, sets, args.temperature, shifted)
    results["asked"] = {"sets": args.sets, "shifted": args.shifted}
    print(table(results))
    path = args.run / "ood.json"
    write_json(results, str(path))
    images, patches = results["images"]["in-distribution"], results["patches"] or "none"
    print(f"Against {images} in-distribution images ({results['split']}); patches: {patches}; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

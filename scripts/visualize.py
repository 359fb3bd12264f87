"""Show where a trained SOT-GLP looks: python -m scripts.visualize RUN_FOLDER [images ...]

The command draws a figure for each image, by default for some test images of the run. With --clearest it takes the test
images predicted right whose local prompts overlap least in the plan of that class, the least first. On Scenes only
images count that have three quarters of the support in the object's box.

Each row is a class: the predicted class, the true class (if predictions.csv has the image), and the runner-up. The
columns are:

  the image
  the mean cosine of each patch with the class's local prompts; frames mark the support
  the partition of the support: a patch has number and colour of the prompt with the largest share, a bar for this share
  the share of each patch, for each prompt

On Scenes a dashed line is the box of the object.

The figure summary.png is about all these images and their predicted classes, with --all about all test images of the
run: the entropy of a patch's shares, and the overlap of pairs of prompts. It compares the transport plan with the top-K
mean, where each prompt takes its own top K patches.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted.
"""

import sys
from pathlib import Path

from dassl.config import read_config
from dassl.finished import FinishedRun
from dassl.utils import Parser, UserError, command, user_input


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="output folder of a finished run of SOTGLP")
    parser.add_argument("images", nargs="*", help="images; by default evenly spaced test images of the run")
    parser.add_argument("--number", type=int, default=6, help="number of test images (6)")
    parser.add_argument("--clearest", action="store_true", help="take test images whose prompts overlap least")
    parser.add_argument("--all", action="store_true", help="let summary.png be about all test images")
    parser.add_argument("--out", type=Path, help="folder for the figures; by default prompts/ in the run's folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    if args.number < 1:
        raise UserError(f"--number must be 1 or more, got {args.number}")
    if args.clearest and args.images:
        raise UserError("--clearest chooses among the run's test images: give no images with it")
    return args


def spaced(items, number):
    """Return that number of items, evenly spaced, or all if there are fewer."""
    number = min(number, len(items))
    return [items[i * len(items) // number] for i in range(number)]


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = parse_args(argv)
    read_config(args.run)  # reports a folder that is no run before torch is imported
    import torch

    from datasets.scenes import read_boxes
    from scripts import prompt_figures

    with user_input():
        predictor, run = prompt_figures.load(args.run), FinishedRun(args.run)
        rows = run.predictions()
        tested = {row["path"]: row["class"] for row in rows}
        root = Path(run.cfg.DATASET.ROOT).expanduser()
        on_scenes = run.cfg.DATASET.NAME == "Scenes" and (root / "scenes").is_dir()
        boxes = {Path(path).resolve(): box for path, box in read_boxes(root).items()} if on_scenes else {}
        if args.clearest:
            right = [row["path"] for row in rows if row["class"] == row["predicted"]]
            paths = prompt_figures.clearest(predictor, right, boxes)[: args.number]
        else:
            paths = args.images or spaced(list(tested), args.number)
        if not paths:
            raise UserError(f"{args.run} has no predictions.csv with such test images and their paths: give images")
        if args.all and not tested:
            raise UserError(f"--all needs the test images, but {args.run} has no predictions.csv")
        images = torch.stack([predictor.preprocess(path) for path in paths])
        out = args.out or args.run / "prompts"
        out.mkdir(parents=True, exist_ok=True)
    names, label_of = predictor.classnames, prompt_figures.labels_of(predictor)
    truths = {Path(path).resolve(): label_of.get(name) for path, name in tested.items()}
    seen = prompt_figures.look(predictor, images)
    for i, path in enumerate(paths):
        place = Path(path).resolve()
        target = out / f"{i + 1:02d}_{Path(path).stem}.png"
        prompt_figures.draw_image(seen, i, truths.get(place), names, target, boxes.get(place))
        if not args.quiet:
            print(f"{target.name}: {path}, predicted {names[seen.probabilities[i].argmax().item()]!r}")
    with user_input():
        every = (part for _, part in prompt_figures.look_at_files(predictor, list(tested))) if args.all else [seen]
        of_kinds = prompt_figures.divisions(every)
        prompt_figures.draw_summary(of_kinds, out / "summary.png")
    if not args.quiet:
        what = f"all {len(tested)} test images" if args.all else "these images"
        found = "; ".join(f"with {name}: {division.text()}" for name, division in of_kinds.items())
        print(f"summary.png: {what}; {found}\n{prompt_figures.WORDS}\nThe figures are in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

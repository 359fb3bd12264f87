"""Classify images with a trained run: python -m scripts.predict RUN_FOLDER IMAGE_OR_FOLDER ...

For each image the command prints the predicted class and its probability in %: of both branches together, and of each
branch if the method has two. It also prints an out-of-distribution (OOD) score: the larger, the less the image is like
the training images.

--calibrate sets the threshold of that score, so that 95 % of the run's validation images are at or below it. Images
above it count as out-of-distribution. Only --calibrate needs the run's data set.

Exit code: 0 done, 1 an image is unreadable (it is reported, and the others are classified), 2 a mistake of the user,
130 interrupted.
"""

import csv
import json
import sys
import warnings
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from dassl.config import read_config
from dassl.utils import Parser, UserError, command, user_input

WIDTHS = {"image": 33, "class": 22}  # characters of a column, so that a line has at most 100
BRANCHES = ("combined", "global", "local")


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument("images", nargs="*", help="images or folders of images")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="print the K most probable classes (1)")
    parser.add_argument("--classes", metavar='"A,B"', help="other classes than the run's, if the method allows them")
    parser.add_argument(
        "--score",
        help="MCM, L-MCM, GL-MCM, MaxLogit or Energy; by default GL-MCM if the method reads patches, else MCM",
    )
    parser.add_argument("--calibrate", action="store_true", help="set the OOD thresholds and save them in the run")
    parser.add_argument("--root", help="folder of the data sets for --calibrate; by default the run's")
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="print JSON")
    formats.add_argument("--csv", action="store_true", help="print CSV, a line for each image and class")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no notes")
    args = parser.parse_args(argv)
    if args.top < 1:
        raise UserError(f"--top must be 1 or more, got {args.top}")
    if not args.images and not args.calibrate:
        raise UserError("give images or folders of images, or --calibrate")
    return args


def paths_of(images):
    """Return the paths of images, and of all images in folders.

    Raises:
        UserError: A folder holds no images.
    """
    from datasets.files import link_free_walk

    paths = []
    for image in images:
        found = link_free_walk(image) if Path(image).is_dir() else [image]
        if not found:
            raise UserError(f"{image} holds no images")
        paths += found
    return paths


def predict(predictor, paths, args):
    """Return a list of records of the readable images, and the number of unreadable ones, which are reported.

    Args:
        predictor: a Predictor.
        paths: paths of images.
        args: the command's arguments.
    """
    import torch  # here, because it takes a second

    records, unreadable, batch = [], 0, {}
    for number, path in enumerate(tqdm(paths, disable=True if args.quiet else None, leave=False), start=1):
        try:
            batch[number] = path, predictor.preprocess(path)
        except UserError as error:
            unreadable += 1
            tqdm.write(f"error: {error}", file=sys.stderr)
        if batch and (len(batch) == predictor.batch_size or number == len(paths)):
            names, pixels = zip(*batch.values(), strict=True)
            records += records_of(names, predictor.predict(torch.stack(pixels), args.score), predictor, args.top)
            batch = {}
    return records, unreadable


def records_of(paths, predictions, predictor, top):
    """Yield a record of each image of a batch: {"image", "classes", "ood", "is_ood"}.

    "classes" is a list of {"class", "combined", "global", "local"}, the most probable class first; "global" and "local"
    are None if the method lacks the branch, and "is_ood" is None without a threshold.

    Args:
        paths: paths of the images.
        predictions: what the predictor returns for them.
        predictor: the Predictor.
        top: number of classes.
    """
    branches = dict(zip(BRANCHES, (predictions.combined, predictions.global_, predictions.local), strict=True))
    best = predictions.combined.topk(min(top, len(predictor.classnames)), dim=1).indices.tolist()
    for i, (path, labels) in enumerate(zip(paths, best, strict=True)):
        classes = [
            {
                "class": predictor.classnames[label],
                **{name: None if values is None else values[i, label].item() for name, values in branches.items()},
            }
            for label in labels
        ]
        is_ood = None if predictions.is_ood is None else predictions.is_ood[i].item()
        yield {"image": str(path), "classes": classes, "ood": predictions.ood[i].item(), "is_ood": is_ood}


def table(records, score):
    """Return a table with a line for each image and class, at most 100 letters long."""
    rows = []
    for record in records:
        for rank, entry in enumerate(record["classes"]):
            percent = [None if entry[name] is None else 100 * entry[name] for name in BRANCHES]
            of_image = [record["ood"], {None: "", True: "yes", False: "no"}[record["is_ood"]]] if rank == 0 else []
            image = shorten(record["image"], "image", end=True) if rank == 0 else ""
            rows.append([image, shorten(entry["class"], "class"), *percent, *of_image])
    headers = ["image", "class", "%", "global", "local", score, "OOD"]
    formats = ("", "", ".1f", ".1f", ".1f", ".4f", "")
    return tabulate(rows, headers, floatfmt=formats, disable_numparse=[0, 1])


def shorten(text, column, end=False):
    """Return the text cut to the width of a column: its start, or its end if `end` is true."""
    width = WIDTHS[column]
    if len(text) <= width:
        return text
    return f"…{text[1 - width :]}" if end else f"{text[: width - 1]}…"


def write(records, score, args):
    """Print the records as a table, as JSON or as CSV."""
    if args.json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "rank", "class", *BRANCHES, score, "is_ood"])
        for record in records:
            for rank, entry in enumerate(record["classes"], start=1):
                writer.writerow([record["image"], rank, *entry.values(), record["ood"], record["is_ood"]])
    else:
        print(table(records, score))


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = parse_args(argv)
    read_config(args.run)  # reports a folder that is no run before torch is imported
    import sotglp

    with user_input():
        paths = paths_of(args.images)
        names = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            predictor = sotglp.load(args.run, names)
        notes = [str(note.message) for note in notes]
        if args.calibrate:
            predictor.calibrate(args.root)
    records, unreadable = predict(predictor, paths, args)
    score = args.score or predictor.score
    if args.calibrate:
        notes.append(
            f"the OOD thresholds are in {args.run / 'ood_threshold.json'}: {score} {predictor.thresholds[score]:.4f}"
        )
    elif not predictor.thresholds:
        notes.append("no OOD threshold: --calibrate sets it, for the run's classes, from the run's data set")
    if not args.quiet:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if paths:
        write(records, score, args)
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())

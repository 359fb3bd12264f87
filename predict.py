"""Classify images with a trained run: python predict.py RUN_FOLDER IMAGE_OR_FOLDER ...

Prints the predicted class of each image with its probability in %, of both branches together and of each alone where
the method has them, and an out-of-distribution score: the larger, the less the image is like those of training.
--calibrate learns the score above which an image is told to be out-of-distribution: 95 % of the run's validation
images are at or below it. Only that needs the run's data set.

Exit code: 0 done; 1 if an image cannot be read (it is named, the others are predicted); 2 for a mistake in the command.
"""

import argparse
import csv
import json
import sys
import warnings
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

import sotglp
from dassl.utils import UserError
from datasets.reading import link_free_walk
from train import Parser

WIDTHS = {"image": 33, "class": 22}  # characters; a table fits 100 columns
SCORES = ("GL-MCM", "MCM", "L-MCM", "MaxLogit", "Energy")
DEFAULT_SCORE = "GL-MCM if the method reads patches, else MCM"
BRANCHES = ("combined", "global", "local")


def parse_args(argv):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument("images", nargs="*", help="images, and folders of images")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="tell the K most probable classes (1)")
    parser.add_argument("--classes", metavar='"A,B"', help="other classes than the run's, where the method allows it")
    parser.add_argument(
        "--score", help="OOD score: GL-MCM if the method reads patches, else MCM; L-MCM, MaxLogit, Energy"
    )
    parser.add_argument("--calibrate", action="store_true", help="learn the OOD thresholds, and keep them in the run")
    parser.add_argument("--root", help="folder of the data sets, for --calibrate; by default the run's")
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="print JSON")
    formats.add_argument("--csv", action="store_true", help="print CSV, a line for each image and class told")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no notes")
    args = parser.parse_args(argv)
    if args.top < 1:
        raise UserError(f"--top must be 1 or more, got {args.top}")
    if not args.images and not args.calibrate:
        raise UserError("give images or folders of images, or --calibrate")
    return args


def paths_of(images):
    """The paths of images; for a folder, those of the images under it. Raises UserError if it holds none."""
    paths = []
    for image in images:
        found = link_free_walk(image) if Path(image).is_dir() else [image]
        if not found:
            raise UserError(f"{image} holds no images")
        paths += found
    return paths


def predict(predictor, paths, args):
    """A record of each image that can be read, and how many cannot; these are named on stderr."""
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
    """[{"image", "classes": [{"class", "combined", "global", "local"}, ...], "ood", "is_ood"}] of a batch."""
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
    """A line for each image and class told, at most 100 columns wide."""
    rows = []
    for record in records:
        for rank, told in enumerate(record["classes"]):
            percent = [None if told[name] is None else 100 * told[name] for name in BRANCHES]
            of_image = [record["ood"], {None: "", True: "yes", False: "no"}[record["is_ood"]]] if rank == 0 else []
            image = shorten(record["image"], "image", end=True) if rank == 0 else ""
            rows.append([image, shorten(told["class"], "class"), *percent, *of_image])
    headers = ["image", "class", "%", "global", "local", score, "OOD"]
    formats = ("", "", ".1f", ".1f", ".1f", ".4f", "")
    return tabulate(rows, headers, floatfmt=formats, disable_numparse=[0, 1])


def shorten(text, column, end=False):
    """The text in the width of a column, without what is too long at its start or, by default, its end."""
    width = WIDTHS[column]
    if len(text) <= width:
        return text
    return f"…{text[1 - width :]}" if end else f"{text[: width - 1]}…"


def write(records, score, args):
    """Print the records as the arguments want them."""
    if args.json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "rank", "class", *BRANCHES, score, "is_ood"])
        for record in records:
            for rank, told in enumerate(record["classes"], start=1):
                writer.writerow([record["image"], rank, *told.values(), record["ood"], record["is_ood"]])
    else:
        print(table(records, score))


def main(argv=None):
    """Run the script; return its exit code."""
    user_errors = (ValueError, OSError)  # in the set-up these are about what the user gave
    try:
        args = parse_args(argv)
        paths = paths_of(args.images)
        names = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            predictor = sotglp.load(args.run, names)
        notes = [str(note.message) for note in notes]
        if args.calibrate:
            predictor.calibrate(args.root)
        user_errors = UserError
        records, unreadable = predict(predictor, paths, args)
    except user_errors as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    score = args.score or predictor.score
    if args.calibrate:
        notes.append(
            f"the OOD thresholds are in {args.run / 'ood_threshold.json'}: {score} {predictor.thresholds[score]:.4f}"
        )
    elif not predictor.thresholds:
        notes.append("no OOD threshold: --calibrate learns it where the run's data set is, for the run's classes")
    if not args.quiet:
        print(*(f"note: {note}" for note in notes), sep="\n", file=sys.stderr)
    if paths:
        write(records, score, args)
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())

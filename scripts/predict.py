"""Classify images with a trained run: python -m scripts.predict RUN_FOLDER IMAGE_OR_FOLDER ...

A pattern such as "photos/**/*.jpg" stands for the images that it fits, @LIST for those in the lines of a text file, and
- for those in the lines of standard input. Results are printed as they come, so thousands of images need no memory.

For each image the command prints the predicted class and its probability in %: of both branches together, and of each
branch if the method has two. It also prints an out-of-distribution (OOD) score: the larger, the less the image is like
the training images.

--calibrate sets the threshold of that score, so that 95 % of the run's validation images are at or below it. Images
above it count as out-of-distribution. Only --calibrate needs the run's data set. It sets the thresholds of all scores
but those with negatives (NegLabel), which take long at first: their own is set if --score names one.

Exit code: 0 done, 1 an image is unreadable (it is reported, and the others are classified), 2 a mistake of the user,
130 interrupted.
"""

import glob
import os
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from dassl.config import read_config
from dassl.utils import Parser, UserError, check_availability, command, user_input
from datasets.files import LeftOut, check_name, link_free_walk
from scripts.ood_sets import SCORES
from scripts.predictions import BRANCHES, CSVLines, JSONList, Table


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument("images", nargs="*", help="images, folders of images, patterns, @LIST, or -")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="print the K most probable classes (1)")
    parser.add_argument("--classes", metavar='"A,B"', help="other classes than the run's, if the method allows them")
    parser.add_argument(
        "--score",
        help=f"{', '.join(SCORES)}; by default GL-MCM if the method reads patches, else MCM",
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
    """Return the paths of images, and a list of lines to say about them.

    Args:
        images: words of the command line: images, folders, patterns, @LIST, or - for standard input.

    Raises:
        UserError: A word stands for no images.
    """
    left_out, paths = LeftOut(), []
    for word in images:
        if word == "-":
            lines = read_stdin()
        elif word.startswith("@") and not os.path.exists(word):
            lines = read_list(word[1:])
        else:
            lines = [word]
        for line in lines:
            if line := line.rstrip("\r\n"):
                paths += images_at(check_name(word, line), left_out)
    if not paths and images:
        raise UserError(f"{' '.join(images)} holds no images")
    said = [str(left_out)] if left_out else []
    if twice := len(paths) - len(set(paths)):
        said.append(f"given more than once, and predicted as often: {twice} image{'s' * (twice > 1)}")
    return paths, said


def read_stdin():
    """Return the lines of standard input.

    Raises:
        UserError: They are not in UTF-8.
    """
    try:
        return list(sys.stdin)
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not in UTF-8 ({error.reason})") from error


def read_list(path):
    """Return the lines of a text file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the list {path}: {error.strerror}") from error


def images_at(place, left_out):
    """Return the paths of one image, of those in a folder, or of those that a pattern such as "a/*.jpg" fits.

    Args:
        place: the path or the pattern.
        left_out: a LeftOut, to which is added what else is in a folder.

    Raises:
        UserError: There are no images.
    """
    if os.path.isdir(place):
        found = link_free_walk(place, left_out)
    elif glob.has_magic(place) and not os.path.exists(place):
        found = sorted(path for path in glob.glob(place, recursive=True) if os.path.isfile(path))
    else:
        return [place]
    if not found:
        raise UserError(f"{place} holds no images")
    return found


def predict(predictor, paths, args):
    """Yield a list of records for each batch of images; unreadable images are reported and left out.

    Args:
        predictor: a Predictor.
        paths: paths of images.
        args: the command's arguments.
    """
    import torch  # here, because it takes a second

    batch = {}
    for number, path in enumerate(tqdm(paths, disable=True if args.quiet else None, leave=False), start=1):
        try:
            batch[number] = path, predictor.preprocess(path)
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
        if batch and (len(batch) == predictor.batch_size or number == len(paths)):
            names, pixels = zip(*batch.values(), strict=True)
            predictions = predictor.predict(torch.stack(pixels), args.score)
            yield list(records_of(names, predictions, predictor, args.top))
            batch = {}


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


def write(batches, score, args):
    """Print lists of records as a table, as JSON or as CSV, each as soon as it is there; return how many there were.

    Args:
        batches: iterator of lists of records.
        score: name of the OOD score.
        args: the command's arguments.
    """
    form = (JSONList if args.json else CSVLines if args.csv else Table)(score)
    number = 0
    for records in batches:  # a mistake in the first batch prints nothing
        tqdm.write((form.start() if number == 0 else "") + form.text(records), file=sys.stdout, end="")
        number += len(records)
    tqdm.write(("" if number else form.start()) + form.end(), file=sys.stdout, end="")
    return number


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = parse_args(argv)
    read_config(args.run)  # reports a folder that is no run before torch is imported
    import sotglp
    from dassl.utils.images import in_words

    with user_input():
        paths, said = paths_of(args.images)
        names = None if args.classes is None else [name.strip() for name in args.classes.split(",")]
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            predictor = sotglp.load(args.run, names)
        if args.score:
            check_availability(args.score, predictor.scores, "OOD score of this method")
        notes = [*said, *(str(note.message) for note in notes)]
        if args.calibrate:
            predictor.calibrate(args.root, args.score)
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
    if not paths:
        return 0
    number = write(predict(predictor, paths, args), score, args)
    if predictor.remarks and not args.quiet:
        print(f"note: {in_words(predictor.remarks)}", file=sys.stderr)
    return 0 if number == len(paths) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Download data sets and arrange them as their readers expect: python -m datasets.prepare NAME [NAME ...] --root DATA

torchvision downloads what it can; the command then moves the files into place and prints the steps left to do by hand.
Exit code: 0 done, 2 a user's mistake or a failed download, 130 interrupted.
"""

import contextlib
import math
import os
import os.path as osp
import sys
import tempfile
import urllib.request

from dassl.utils import Parser, UserError, check_availability, command, copy_file, user_input

# reader: (torchvision's class, {path that it makes under its root: path where the reader expects it under ours})
DOWNLOADS = {
    "Caltech101": ("Caltech101", {"caltech101/101_ObjectCategories": "caltech-101/101_ObjectCategories"}),
    "OxfordPets": (
        "OxfordIIITPet",
        {"oxford-iiit-pet/images": "oxford_pets/images", "oxford-iiit-pet/annotations": "oxford_pets/annotations"},
    ),
    "OxfordFlowers": (
        "Flowers102",
        {"flowers-102/jpg": "oxford_flowers/jpg", "flowers-102/imagelabels.mat": "oxford_flowers/imagelabels.mat"},
    ),
    "Food101": ("Food101", {"food-101/images": "food-101/images", "food-101/meta": "food-101/meta"}),
    "FGVCAircraft": ("FGVCAircraft", {"fgvc-aircraft-2013b/data": "fgvc_aircraft"}),
    "SUN397": ("SUN397", {"SUN397": "sun397/SUN397"}),
    "DescribableTextures": ("DTD", {"dtd/dtd/images": "dtd/images", "dtd/dtd/labels": "dtd/labels"}),
    "EuroSAT": ("EuroSAT", {"eurosat/2750": "eurosat/2750"}),
}
SPEED = 50  # Mbit/s, for the time that a download is said to take
# More files, which only DATASET.MAKE_SPLIT reads.
FOR_MAKE_SPLIT = {
    "OxfordFlowers": "cat_to_name.json, https://drive.google.com/file/d/1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0",
    "SUN397": "Partitions.zip, https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
    "StanfordCars": "devkit/ and cars_test_annos_withlabels.mat, from the source of the images",
    "UCF101": "ucfTrainTestlist/, https://www.crcv.ucf.edu/data/UCF101.php",
}


def registry():
    """Return DATASET_REGISTRY with all readers in it."""
    from datasets.readers import DATASET_REGISTRY  # imports torch, which --help and argument mistakes do without

    return DATASET_REGISTRY


def is_prepared_here(name):
    """Return whether the reader `name` needs files that come from elsewhere, under a fixed folder of the root."""
    return bool(getattr(registry().get(name), "pieces", None))


def next_steps(name, root):
    """Return the steps left to do by hand for a data set, a line each."""
    reader = registry().get(name)
    steps = list(reader.missing_pieces(osp.join(root, reader.dataset_dir)).values())
    if steps and name in FOR_MAKE_SPLIT:
        steps.append(f"for DATASET.MAKE_SPLIT only: {FOR_MAKE_SPLIT[name]}")
    return steps


def download(name, root):
    """Download a data set into `root`, whole or not at all; existing files stay as they are.

    Args:
        name: A key of DOWNLOADS.
        root: Root of the data sets.

    Raises:
        UserError: The download fails, or torchvision makes other files than expected.
    """
    from torchvision import datasets as torchvision_datasets  # takes a second to import

    source, moves = DOWNLOADS[name]
    os.makedirs(root, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as temporary, announced():
        try:
            getattr(torchvision_datasets, source)(temporary, download=True)
        except (OSError, RuntimeError, ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot download {name} through torchvision ({reason}): check the network, or fetch it by hand: "
                f"{'; '.join(next_steps(name, root))}"
            ) from error
        for made, expected in moves.items():
            target = osp.join(root, expected)
            if not osp.exists(osp.join(temporary, made)):
                raise UserError(
                    f"torchvision's {source} made no {made}: fetch {name} by hand: {next_steps(name, root)[0]}"
                )
            if not osp.exists(target):
                os.makedirs(osp.dirname(target), exist_ok=True)
                os.rename(osp.join(temporary, made), target)


@contextlib.contextmanager
def announced():
    """Say size and time of each file that the block downloads through urllib, as torchvision does, before it starts."""
    urlopen = urllib.request.urlopen

    def open_and_say(request, *args, **options):
        response = urlopen(request, *args, **options)
        size = response.headers.get("Content-Length")
        if size and (isinstance(request, str) or request.get_method() == "GET"):
            minutes = math.ceil(int(size) * 8 / 1e6 / SPEED / 60)
            print(f"{osp.basename(response.url)}: {int(size) / 1e6:,.0f} MB, {minutes} min at {SPEED} Mbit/s")
        return response

    urllib.request.urlopen = open_and_say
    try:
        yield
    finally:
        urllib.request.urlopen = urlopen


def prepare(name, root):
    """Download a data set if possible, and copy ImageNet's class names to its variants.

    Args:
        name: A data set for which `is_prepared_here`.
        root: Root of the data sets.

    Returns:
        The steps left to do by hand, a line each.

    Raises:
        UserError: The download fails.
        OSError: A file cannot be written.
    """
    reader = registry().get(name)
    folder = osp.join(root, reader.dataset_dir)
    if name in DOWNLOADS and not all(osp.exists(osp.join(root, expected)) for expected in DOWNLOADS[name][1].values()):
        print(f"{name}: downloading")
        download(name, root)
    classnames = osp.join(root, "imagenet", "classnames.txt")
    if "classnames.txt" in reader.pieces and osp.isfile(classnames) and not osp.exists(f"{folder}/classnames.txt"):
        copy_file(classnames, osp.join(folder, "classnames.txt"))
    return next_steps(name, root)


@command
def main(argv=None):
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="data set as in DATASET.NAME, e.g. OxfordPets")
    parser.add_argument("--root", default="data", help="folder of the data sets")
    args = parser.parse_args(argv)
    root = osp.abspath(osp.expanduser(args.root))
    known = [name for name in registry().registered_names() if is_prepared_here(name)]
    for name in args.names:
        check_availability(name, known, "data set to prepare")
    for name in args.names:
        with user_input():
            steps = prepare(name, root)
        print(f"{name}: {'by hand:' if steps else 'complete'}", *steps, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())

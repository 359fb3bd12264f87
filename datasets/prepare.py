"""Download a data set and arrange it as its reader expects: python -m datasets.prepare NAME [NAME ...] --root DATA

What torchvision's own classes download is moved into place; for the rest, the steps to take by hand are printed.
Exit code: 0 done, 2 a mistake of the user or a download that fails, 130 interrupted.
"""

import argparse
import os
import os.path as osp
import sys
import tempfile

import datasets  # noqa: F401 (registers the readers)
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError, check_availability, copy_file

# reader: torchvision's class, and {what it makes under its root: where that belongs under ours}
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
# Further files that only a split made here (DATASET.MAKE_SPLIT) reads.
FOR_MAKE_SPLIT = {
    "OxfordFlowers": "cat_to_name.json, https://drive.google.com/file/d/1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0",
    "SUN397": "Partitions.zip, https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
    "StanfordCars": "devkit/ and cars_test_annos_withlabels.mat, from where the images are",
    "UCF101": "ucfTrainTestlist/, https://www.crcv.ucf.edu/data/UCF101.php",
}


def is_prepared_here(name):
    """Whether a reader is of a data set in a folder of its own under the root, that has to be fetched."""
    return bool(getattr(DATASET_REGISTRY.get(name), "pieces", None))


def next_steps(name, root):
    """What is left to do by hand for a data set, a line each."""
    reader = DATASET_REGISTRY.get(name)
    steps = list(reader.missing_pieces(osp.join(root, reader.dataset_dir)).values())
    if steps and name in FOR_MAKE_SPLIT:
        steps.append(f"for DATASET.MAKE_SPLIT only: {FOR_MAKE_SPLIT[name]}")
    return steps


def download(name, root):
    """Download a data set into `root`, whole or not at all; what is there already stays as it is.

    Raises:
        UserError: the download fails, or gives something else than expected.
    """
    from torchvision import datasets as torchvision_datasets  # takes a second to import

    source, moves = DOWNLOADS[name]
    os.makedirs(root, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as temporary:
        try:
            getattr(torchvision_datasets, source)(temporary, download=True)
        except (OSError, RuntimeError, ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot download {name} through torchvision ({reason}): look after the network, or fetch it by hand: "
                f"{'; '.join(next_steps(name, root))}"
            ) from error
        for made, wanted in moves.items():
            target = osp.join(root, wanted)
            if not osp.exists(osp.join(temporary, made)):
                raise UserError(
                    f"torchvision's {source} made no {made}: fetch {name} by hand: {next_steps(name, root)[0]}"
                )
            if not osp.exists(target):
                os.makedirs(osp.dirname(target), exist_ok=True)
                os.rename(osp.join(temporary, made), target)


def prepare(name, root):
    """Download what can be, copy ImageNet's class names, and return what is left to do by hand, a line each."""
    reader = DATASET_REGISTRY.get(name)
    folder = osp.join(root, reader.dataset_dir)
    if name in DOWNLOADS and not all(osp.exists(osp.join(root, wanted)) for wanted in DOWNLOADS[name][1].values()):
        print(f"{name}: downloading")
        download(name, root)
    classnames = osp.join(root, "imagenet", "classnames.txt")
    if "classnames.txt" in reader.pieces and osp.isfile(classnames) and not osp.exists(f"{folder}/classnames.txt"):
        copy_file(classnames, osp.join(folder, "classnames.txt"))
    return next_steps(name, root)


def main(argv=None):
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in DATASET_REGISTRY.registered_names() if is_prepared_here(name)]
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(known))
    parser.add_argument("--root", default="data", help="folder of the data sets")
    args = parser.parse_args(argv)
    root = osp.abspath(osp.expanduser(args.root))
    try:
        for name in args.names:
            check_availability(name, known, "data set to prepare")
        for name in args.names:
            steps = prepare(name, root)
            print(f"{name}: {'by hand:' if steps else 'complete'}", *steps, sep="\n  ")
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

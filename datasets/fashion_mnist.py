"""Fashion-MNIST: grey photographs of clothes in 10 classes, 28 x 28 pixels; inverted here to dark on white.

Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", arXiv 1708.07747.
https://github.com/zalandoresearch/fashion-mnist
"""

import gzip
import os
import os.path as osp
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import UserError, listdir_nohidden
from datasets.archives import unpack

CLASSNAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
VAL_PER_CLASS = 1000


@DATASET_REGISTRY.register(fallback=True)  # a user's reader of this name wins
class FashionMNIST(DatasetBase):
    """<ROOT>/fashion_mnist with <split>/<label>_<index>.png, of a subset or of all images.

    The subset comes with the repository and is unpacked on first use: 64 training, 16 validation and 200 test
    images of each class. If the folder holds the four official IDX files (.gz or not), the reader converts them to
    PNG once: 50,000 images for training, 10,000 of the official training part for validation, 10,000 for testing.

    Raises:
        FileNotFoundError: One of the four IDX files is missing.
        UserError: An IDX file is damaged, or the folder has unexpected content.
    """

    dataset_dir = "fashion_mnist"

    def __init__(self, cfg):
        folder = osp.join(osp.abspath(osp.expanduser(cfg.DATASET.ROOT)), self.dataset_dir)
        if any(find_idx(folder, name) for names in FILES.values() for name in names):
            folder = convert(folder, osp.join(folder, "full"))
        else:
            unpack(osp.join(osp.dirname(__file__), "fashion_mnist", "fashion_mnist.zip"), folder)
        train, val, test = (read_images(osp.join(folder, split)) for split in ("train", "val", "test"))
        train, val = self.few_shot(cfg, train, val)
        train, val, test = self.subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)


def read_images(folder):
    """Return the images <folder>/<label>_<index>.png as a list of Datum, sorted by name."""
    items = []
    for name in listdir_nohidden(folder, sort=True):
        label = int(name.partition("_")[0])
        items.append(Datum(osp.join(folder, name), label=label, classname=CLASSNAMES[label]))
    return items


def find_idx(folder, name):
    """Return the path of an IDX file, .gz or not; None if both are missing."""
    return next((path for path in (Path(folder, name), Path(folder, f"{name}.gz")) if path.is_file()), None)


def read_idx(folder, name, ndim):
    """Return the array in an IDX file, .gz or not.

    The file begins with the bytes 0, 0, 8 (for uint8) and the number of dimensions, then has each size in 4 bytes,
    the most significant first.

    Args:
        folder: Folder of the file.
        name: Its name, without .gz.
        ndim: Number of dimensions that it must have.

    Raises:
        FileNotFoundError: The file is missing.
        UserError: The file is damaged.
    """
    path = find_idx(folder, name)
    if path is None:
        raise FileNotFoundError(f"no {name} or {name}.gz in {folder}: Fashion-MNIST needs all four of its IDX files")
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read()
        magic, *sizes = struct.unpack_from(f">4s{ndim}I", data)
        if magic != bytes([0, 0, 8, ndim]):
            raise ValueError(f"begins with {magic!r}")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(sizes)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path} is not a readable IDX file: copy it anew") from error


def read_part(folder, part):
    """Return the images (N, 28, 28), light on black as in the files, and labels (N,) of an official part, both uint8.

    Args:
        folder: Folder of the IDX files.
        part: "train" or "test".

    Raises:
        FileNotFoundError: A file is missing.
        UserError: A file is damaged, or the images and labels do not match.
    """
    image_name, label_name = FILES[part]
    images, labels = read_idx(folder, image_name, ndim=3), read_idx(folder, label_name, ndim=1)
    if len(images) != len(labels) or not set(labels.tolist()) <= set(range(len(CLASSNAMES))):
        raise UserError(f"{folder}: {image_name} and {label_name} do not belong together: copy them anew")
    return images, labels


def write_images(folder, images, labels, indices):
    """Write images[indices], inverted, as <folder>/<label>_<index>.png."""
    os.makedirs(folder)
    for index in tqdm(indices, desc=f"Writing {osp.basename(folder)} images"):
        Image.fromarray(255 - images[index]).save(osp.join(folder, f"{labels[index]}_{index:05d}.png"))


def convert(source, target):
    """Convert the IDX files of `source` to PNG in `target`, once and whole; return `target`.

    Each conversion chooses the same validation images, up to 1,000 of each class of the training part.
    """
    if not osp.isdir(target):
        generator = np.random.default_rng(0)
        with tempfile.TemporaryDirectory(dir=source) as temporary:
            images, labels = read_part(source, "train")
            by_class = [generator.permutation(np.flatnonzero(labels == label)) for label in range(len(CLASSNAMES))]
            # At most a sixth of a class, as 1,000 of 6,000 in the official files.
            val = np.concatenate([chosen[: min(VAL_PER_CLASS, len(chosen) // 6)] for chosen in by_class])
            write_images(osp.join(temporary, "full", "val"), images, labels, val)
            write_images(osp.join(temporary, "full", "train"), images, labels, np.setdiff1d(range(len(labels)), val))
            images, labels = read_part(source, "test")
            write_images(osp.join(temporary, "full", "test"), images, labels, range(len(labels)))
            os.rename(osp.join(temporary, "full"), target)
    return target

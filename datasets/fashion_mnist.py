"""Fashion-MNIST: photographs of clothes in 10 classes, 28 x 28, grey; here inverted, dark on white.

Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", arXiv 1708.07747.
https://github.com/zalandoresearch/fashion-mnist
"""

import gzip
import os
import os.path as osp
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.mnist import read_image_file, read_label_file
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


@DATASET_REGISTRY.register(fallback=True)  # a reader of that name of yours comes first
class FashionMNIST(DatasetBase):
    """<ROOT>/fashion_mnist with <split>/<label>_<index>.png, of a subset or of all images.

    The subset comes with the repository and is unpacked on first use: 64 training, 16 validation and 200 test
    images of each class. If the folder holds the four official IDX files (.gz or not), all images are used, made
    into PNG once: 50,000 for training, 10,000 of the official training part for validation and 10,000 for testing.

    Raises:
        FileNotFoundError: one of the four IDX files is missing.
        UserError: an IDX file cannot be read, or the folder holds something else.
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
    """Return the images <label>_<index>.png of a folder as Datum, in the order of their names."""
    items = []
    for name in listdir_nohidden(folder, sort=True):
        label = int(name.partition("_")[0])
        items.append(Datum(osp.join(folder, name), label=label, classname=CLASSNAMES[label]))
    return items


def find_idx(folder, name):
    """Path of an IDX file, packed or not; None if there is neither."""
    return next((path for path in (Path(folder, name), Path(folder, f"{name}.gz")) if path.is_file()), None)


def read_idx(folder, name, reader):
    """The array in an IDX file, packed or not, by one of torchvision's readers."""
    path = find_idx(folder, name)
    if path is None:
        raise FileNotFoundError(f"no {name} or {name}.gz in {folder}: Fashion-MNIST needs all four of its IDX files")
    try:
        if path.suffix != ".gz":
            return reader(str(path)).numpy()
        with tempfile.TemporaryDirectory() as temporary:
            plain = osp.join(temporary, name)
            with gzip.open(path) as packed, open(plain, "wb") as file:
                file.write(packed.read())
            return reader(plain).numpy()
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"{path} is not a readable IDX file: copy it anew") from error


def read_part(folder, part):
    """Images (N, 28, 28) uint8, light on black as in the files, and labels (N,) of the "train" or "test" part."""
    image_name, label_name = FILES[part]
    images, labels = read_idx(folder, image_name, read_image_file), read_idx(folder, label_name, read_label_file)
    if len(images) != len(labels) or not set(labels.tolist()) <= set(range(len(CLASSNAMES))):
        raise UserError(f"{folder}: {image_name} and {label_name} do not belong together: copy them anew")
    return images, labels


def write_images(folder, images, labels, indices):
    """Write images[indices] as <label>_<index>.png, inverted."""
    os.makedirs(folder)
    for index in tqdm(indices, desc=f"Writing {osp.basename(folder)} images"):
        Image.fromarray(255 - images[index]).save(osp.join(folder, f"{labels[index]}_{index:05d}.png"))


def convert(source, target):
    """Make the IDX files of ``source`` into PNG in ``target``, once and whole; return ``target``.

    Validation images are the same at each conversion: up to 1,000 of each class of the training part.
    """
    if not osp.isdir(target):
        generator = np.random.default_rng(0)
        with tempfile.TemporaryDirectory(dir=source) as temporary:
            images, labels = read_part(source, "train")
            by_class = [generator.permutation(np.flatnonzero(labels == label)) for label in range(len(CLASSNAMES))]
            # A class never gives more than a sixth away, as in the official files' 1,000 of 6,000.
            val = np.concatenate([chosen[: min(VAL_PER_CLASS, len(chosen) // 6)] for chosen in by_class])
            write_images(osp.join(temporary, "full", "val"), images, labels, val)
            write_images(osp.join(temporary, "full", "train"), images, labels, np.setdiff1d(range(len(labels)), val))
            images, labels = read_part(source, "test")
            write_images(osp.join(temporary, "full", "test"), images, labels, range(len(labels)))
            os.rename(osp.join(temporary, "full"), target)
    return target

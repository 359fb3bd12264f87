"""Lists of images by the fine-grained data sets' own annotation files, from which DATASET.MAKE_SPLIT makes a split.

Every function `list_*` has the same form:

Args:
        folder: Folder of the data set.
        images: Folder of its images.

Returns:
        Two lists of Datum: images for training and validation, and images for testing. The second is None if the
        data set has no official test images. Class names are those of CoOp's split files.

Raises:
        OSError: A file is missing.
        UserError: A file is damaged.
"""

import os.path as osp
import re
from functools import partial

import numpy as np

from dassl.data.datasets import Datum
from dassl.utils import UserError
from datasets.reading import class_folders, parse_words, read_class_folders, read_json_file, read_lines


def read_mat(path, key, parse):
    """Return the values of the variable `key` of a Matlab file as a list, each passed through `parse`."""
    try:
        from scipy.io import loadmat  # an optional package, which only DATASET.MAKE_SPLIT needs
    except ImportError:
        raise UserError(f"reading {path} needs SciPy: pip install scipy") from None
    try:
        return [parse(value) for value in np.atleast_1d(loadmat(path, squeeze_me=True)[key])]
    except FileNotFoundError:
        raise
    except Exception as error:  # many types: SciPy's for a damaged file, NumPy's for a variable of another form
        raise UserError(f'{path} has no readable "{key}" ({type(error).__name__}): copy it anew') from error


def pick(table, key, path):
    """Return table[key].

    Args:
        path: File that the table comes from, for the error message.

    Raises:
        UserError: The table has no such key.
    """
    if not (isinstance(table, dict) and key in table):
        raise UserError(f'{path} has no "{key}": copy the files of the data set anew')
    return table[key]


def list_folders(folder, images, rename=None, leave_out=()):
    """<images>/<class>/: labels follow the sorted folders.

    Args:
        rename: {folder: class name}, where the two differ.
        leave_out: Folders that are no class.
    """
    names = {name: (rename or {}).get(name, name) for name in class_folders(images) if name not in leave_out}
    return read_class_folders(images, names), None


def list_pets(folder, images):
    """annotations/{trainval,test}.txt with lines "<Breed>_<number> <label from 1> ..."; class names in lower case."""
    parts = []
    for part in ("trainval", "test"):
        path = osp.join(folder, "annotations", f"{part}.txt")
        items = []
        for line in read_lines(path):
            name, label, _ = parse_words(path, line, 3)
            if not label.isdecimal():
                raise UserError(f'{path}: the second word of a line is a label, got "{line}"')
            breed = name.rpartition("_")[0].lower()
            items.append(Datum(osp.join(images, f"{name}.jpg"), label=int(label) - 1, classname=breed))
        parts.append(items)
    return parts


def list_flowers(folder, images):
    """jpg/image_<number>.jpg; imagelabels.mat has the labels from 1, cat_to_name.json the class names."""
    path, names_path = osp.join(folder, "imagelabels.mat"), osp.join(folder, "cat_to_name.json")
    names, items = read_json_file(names_path), []
    for number, label in enumerate(read_mat(path, "labels", int), start=1):
        image = osp.join(images, f"image_{number:05d}.jpg")
        items.append(Datum(image, label=label - 1, classname=str(pick(names, str(label), names_path))))
    return items, None


def list_cars(folder, images):
    """devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat; class names begin with the year."""
    meta = osp.join(folder, "devkit", "cars_meta.mat")
    names = read_mat(meta, "class_names", lambda name: " ".join([name.split()[-1], *name.split()[:-1]]))
    parts = []
    for directory, file in (
        ("cars_train", "devkit/cars_train_annos.mat"),
        ("cars_test", "cars_test_annos_withlabels.mat"),
    ):
        path = osp.join(folder, file)
        items = []
        for label, image in read_mat(path, "annotations", lambda row: (int(row["class"]) - 1, str(row["fname"]))):
            name = pick(dict(enumerate(names)), label, meta)
            items.append(Datum(osp.join(folder, directory, image), label=label, classname=name))
        parts.append(items)
    return parts


def list_sun(folder, images):
    """Training_01.txt and Testing_01.txt; each line "/<letter>/<class>[/<kind>]" of ClassName.txt is a class."""
    path = osp.join(folder, "ClassName.txt")
    labels = {line: label for label, line in enumerate(read_lines(path))}
    parts = []
    for file in ("Training_01.txt", "Testing_01.txt"):
        items = []
        for line in read_lines(osp.join(folder, file)):
            directory = osp.dirname(line)
            name = " ".join(reversed(directory.split("/")[2:]))  # "/b/bakery/shop" is a "shop bakery"
            label = pick(labels, directory, path)
            items.append(Datum(osp.join(images, line.lstrip("/")), label=label, classname=name))
        parts.append(items)
    return parts


def list_ucf(folder, images):
    """ucfTrainTestlist/{train,test}list01.txt with lines "<Class>/<video>.avi"; classInd.txt has the order of labels.

    The middle frame of a video is <Class_In_Words>/<video>.jpg.
    """
    lists = osp.join(folder, "ucfTrainTestlist")
    path = osp.join(lists, "classInd.txt")
    words = (parse_words(path, line, 2) for line in read_lines(path))
    labels = {name: label for label, (_, name) in enumerate(words)}
    parts = []
    for file in ("trainlist01.txt", "testlist01.txt"):
        items = []
        for line in read_lines(osp.join(lists, file)):
            action, video = osp.split(line.split()[0])
            label = pick(labels, action, path)
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))
            image = osp.join(images, name, f"{osp.splitext(video)[0]}.jpg")
            items.append(Datum(image, label=label, classname=name))
        parts.append(items)
    return parts


list_caltech = partial(
    list_folders,
    rename={"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"},
    leave_out=("BACKGROUND_Google", "Faces_easy"),
)
list_eurosat = partial(
    list_folders,
    rename={
        "AnnualCrop": "Annual Crop Land",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "SeaLake": "Sea or Lake",
    },
)

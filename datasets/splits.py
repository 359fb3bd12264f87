"""The ten fine-grained sets of the CoOp family: nine with a published split file, and FGVC-Aircraft with its lists.

Folders, split files and class names are those of CoOp (Zhou et al., "Learning to Prompt for Vision-Language Models",
IJCV 2022), whose DATASETS.md says where each file comes from:
https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md
"""

import os.path as osp
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError
from datasets.reading import (
    Reader,
    class_folders,
    parse_words,
    read_class_folders,
    read_json_file,
    read_lines,
    split_by_class,
)

SPLITS = ("train", "val", "test")


@dataclass
class Row:
    """What is particular to a data set with a split file.

    Attributes:
        folder: of the data set, under DATASET.ROOT.
        images: folder in it that the paths of the split file are relative to.
        split_id: the split file's on Google Drive.
        source: where the images come from.
        list_images: function (folder, folder of the images) -> (training and validation images, test images) by the
            data set's own annotations, for DATASET.MAKE_SPLIT; None for the test images if those are not told apart.
        paper: who made the data set.
    """

    folder: str
    images: str
    split_id: str
    source: str
    list_images: Callable
    paper: str


class SplitReader(Reader):
    """A data set whose images and labels are listed in split_zhou_<name>.json: {"train", "val", "test"}, each a list
    of [path, label, class name].

    Where that file is missing, DATASET.MAKE_SPLIT makes a split from the data set's own annotations:
    the official test images if there are such, with a fifth of the others for validation; else 50 % of each
    class for training, 20 % for validation and 30 % for testing. It is the same for every seed.

    Raises:
        FileNotFoundError: the split file or the folder of images is missing; the line says where to get it.
        UserError: the split file holds something else.
    """

    row = None  # of the table below

    def __init__(self, cfg):
        split_file = osp.join(self.folder(cfg), self.split_name())
        # Under another repository's train.py nobody has declared the key.
        make = cfg.DATASET.get("MAKE_SPLIT", False) and not osp.exists(split_file)
        folder = self.find_pieces(cfg, can_do_without=[split_file] if make else ())
        images = osp.normpath(osp.join(folder, self.row.images))
        super().__init__(cfg, *(self.make_split(cfg, folder, images) if make else read_split(split_file, images)))

    @classmethod
    def split_name(cls):
        return f"split_zhou_{cls.__name__}.json"

    def make_split(self, cfg, folder, images):
        warnings.warn(
            f"{folder}: the split is made here (DATASET.MAKE_SPLIT), as there is no {self.split_name()}: "
            "results are not comparable with published ones",
            stacklevel=2,
        )
        train, test = self.row.list_images(folder, images)
        if test is None:
            return split_by_class(train, (0.5, 0.2))
        val, train = split_by_class(train, (0.2,))
        return train, val, test


def read_split(path, images):
    """Return the lists of Datum (train, val, test) of a split file; its paths are relative to `images`."""
    content = read_json_file(path)
    if not (isinstance(content, dict) and all(isinstance(content.get(split), list) for split in SPLITS)):
        raise UserError(f'{path} must hold lists "train", "val" and "test": copy it anew')
    splits = []
    for split in SPLITS:
        items = []
        for entry in content[split]:
            if not (isinstance(entry, list) and [type(value) for value in entry] == [str, int, str]):
                raise UserError(f'{path}: "{split}" must hold [path, label, class name], got {entry!r:.80}')
            items.append(Datum(osp.join(images, entry[0]), label=entry[1], classname=entry[2]))
        splits.append(items)
    return splits


def read_mat(path, key, parse):
    """The values of a variable of a Matlab file, each parsed."""
    try:
        from scipy.io import loadmat  # only splits made here need it
    except ImportError:
        raise UserError(f"reading {path} needs SciPy: pip install scipy") from None
    try:
        return [parse(value) for value in np.atleast_1d(loadmat(path, squeeze_me=True)[key])]
    except FileNotFoundError:
        raise
    except Exception as error:  # many types: SciPy's for a damaged file, NumPy's for a variable of another form
        raise UserError(f'{path} has no readable "{key}" ({type(error).__name__}): copy it anew') from error


def pick(table, key, path):
    """table[key]; UserError, about the file at `path`, if there is no such key."""
    if not (isinstance(table, dict) and key in table):
        raise UserError(f'{path} has no "{key}": copy the files of the data set anew')
    return table[key]


def list_folders(folder, images, rename=None, leave_out=()):
    """A class per folder, labelled in their order."""
    names = {name: (rename or {}).get(name, name) for name in class_folders(images) if name not in leave_out}
    return read_class_folders(images, names), None


def list_pets(folder, images):
    """annotations/{trainval,test}.txt with "<Breed>_<number> <label from 1> ..." lines; names in lower case."""
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
    """jpg/image_<number>.jpg; labels from 1 in imagelabels.mat, their names in cat_to_name.json."""
    path, names_path = osp.join(folder, "imagelabels.mat"), osp.join(folder, "cat_to_name.json")
    names, items = read_json_file(names_path), []
    for number, label in enumerate(read_mat(path, "labels", int), start=1):
        image = osp.join(images, f"image_{number:05d}.jpg")
        items.append(Datum(image, label=label - 1, classname=str(pick(names, str(label), names_path))))
    return items, None


def list_cars(folder, images):
    """devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat; the year of a name comes first."""
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
    """ClassName.txt with "/<letter>/<class>[/<kind>]" lines, a label each; Training_01.txt and Testing_01.txt."""
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
    """ucfTrainTestlist/classInd.txt with "<label from 1> <Class>" lines; {train,test}list01.txt with
    "<Class>/<video>.avi" lines. The middle frame of a video is <Class_In_Words>/<video>.jpg."""
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

TABLE = {
    "Caltech101": Row(
        "caltech-101",
        "101_ObjectCategories",
        "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        list_caltech,
        'Fei-Fei et al., "Learning Generative Visual Models from Few Training Examples", CVPR Workshop 2004',
    ),
    "OxfordPets": Row(
        "oxford_pets",
        "images",
        "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        "https://www.robots.ox.ac.uk/~vgg/data/pets",
        list_pets,
        'Parkhi et al., "Cats and Dogs", CVPR 2012',
    ),
    "StanfordCars": Row(
        "stanford_cars",
        ".",
        "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        "the copies that https://github.com/pytorch/vision/issues/7545 lists (the makers' links are dead)",
        list_cars,
        'Krause et al., "3D Object Representations for Fine-Grained Categorization", ICCV Workshop 2013',
    ),
    "OxfordFlowers": Row(
        "oxford_flowers",
        "jpg",
        "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        list_flowers,
        'Nilsback and Zisserman, "Automated Flower Classification over a Large Number of Classes", ICVGIP 2008',
    ),
    "Food101": Row(
        "food-101",
        "images",
        "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        list_folders,
        'Bossard et al., "Food-101: Mining Discriminative Components with Random Forests", ECCV 2014',
    ),
    "SUN397": Row(
        "sun397",
        "SUN397",
        "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq",
        "http://vision.princeton.edu/projects/2010/SUN",
        list_sun,
        'Xiao et al., "SUN Database: Large-scale Scene Recognition from Abbey to Zoo", CVPR 2010',
    ),
    "DescribableTextures": Row(
        "dtd",
        "images",
        "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd",
        list_folders,
        'Cimpoi et al., "Describing Textures in the Wild", CVPR 2014',
    ),
    "EuroSAT": Row(
        "eurosat",
        "2750",
        "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        "https://github.com/phelber/EuroSAT",
        list_eurosat,
        'Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark", IEEE JSTARS 2019',
    ),
    "UCF101": Row(
        "ucf101",
        "UCF-101-midframes",
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        "UCF-101-midframes.zip, https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",
        list_ucf,
        'Soomro et al., "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", 2012',
    ),
}


def make_reader(name, row):
    """The reader class of a row of the table."""
    folders = ("cars_train", "cars_test") if row.images == "." else (row.images,)
    split = (
        f"the split of CoOp's DATASETS.md, https://drive.google.com/file/d/{row.split_id}; or DATASET.MAKE_SPLIT True"
    )
    pieces = {
        **{folder: f"it should hold the images, from {row.source}" for folder in folders},
        f"split_zhou_{name}.json": split,
    }
    layout = " and ".join(f"{folder}/" for folder in folders)
    doc = f"<ROOT>/{row.folder} with {layout} and split_zhou_{name}.json, as any SplitReader. {row.paper}."
    return type(name, (SplitReader,), {"__doc__": doc, "dataset_dir": row.folder, "row": row, "pieces": pieces})


for _name, _row in TABLE.items():
    DATASET_REGISTRY.register(make_reader(_name, _row), fallback=True)  # a reader of that name of yours comes first


@DATASET_REGISTRY.register(fallback=True)
class FGVCAircraft(Reader):
    """<ROOT>/fgvc_aircraft with images/, variants.txt and images_variant_{train,val,test}.txt of the data set.

    Labels follow variants.txt. Maji et al., "Fine-Grained Visual Classification of Aircraft", arXiv 1306.5151.

    Raises:
        FileNotFoundError: a list or the folder of images is missing.
        UserError: a list names a variant that variants.txt does not.
    """

    dataset_dir = "fgvc_aircraft"
    pieces = {
        piece: "it is in data/ of https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, renamed fgvc_aircraft/"
        for piece in ("images", "variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS))
    }

    def __init__(self, cfg):
        folder = self.find_pieces(cfg)
        path = osp.join(folder, "variants.txt")
        labels = {name: label for label, name in enumerate(read_lines(path))}
        splits = []
        for split in SPLITS:
            list_path = osp.join(folder, f"images_variant_{split}.txt")
            items = []
            for line in read_lines(list_path):
                image, name = parse_words(list_path, line, 2)
                label = pick(labels, name, path)
                items.append(Datum(osp.join(folder, "images", f"{image}.jpg"), label=label, classname=name))
            splits.append(items)
        super().__init__(cfg, *splits)

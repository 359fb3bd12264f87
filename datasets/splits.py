"""The ten fine-grained data sets of CoOp: nine with a published split file, and FGVC-Aircraft with its own lists.

Folders, split files and class names are those of CoOp (Zhou et al., "Learning to Prompt for Vision-Language Models",
IJCV 2022). Its DATASETS.md links all files: https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md
"""

import os.path as osp
from collections.abc import Callable
from dataclasses import dataclass

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError
from datasets.annotations import (
    list_caltech,
    list_cars,
    list_eurosat,
    list_flowers,
    list_folders,
    list_pets,
    list_sun,
    list_ucf,
    pick,
)
from datasets.reading import SPLITS, Reader, parse_words, read_json_file, read_lines, split_by_class


@dataclass
class Row:
    """The facts about one data set with a split file.

    Attributes:
        folder: Folder of the data set under DATASET.ROOT.
        images: Folder of the images in it; the paths of the split file are relative to it.
        split_id: Google Drive's id of the split file.
        source: Where to get the images.
        list_images: Function of datasets.annotations that lists the images, for DATASET.MAKE_SPLIT.
        paper: The publication of the data set.
    """

    folder: str
    images: str
    split_id: str
    source: str
    list_images: Callable
    paper: str


class SplitReader(Reader):
    """A data set whose split file split_zhou_<name>.json lists its images.

    The file holds {"train": [...], "val": [...], "test": [...]} with an entry [path, label, class name] per image.
    If it is missing, DATASET.MAKE_SPLIT makes a split from the data set's own annotations, the same for every seed.
    Official test images stay test images, and a fifth of the others becomes the validation set. Without official
    test images, 50 % of each class are for training, 20 % for validation and 30 % for testing.

    Raises:
        FileNotFoundError: The split file or the folder of images is missing; the message names the source.
        UserError: The split file has unexpected content.
    """

    row = None  # a Row of TABLE

    def __init__(self, cfg):
        split_file = osp.join(self.folder(cfg), self.split_name())
        # The train.py of another repository does not declare the key.
        make = cfg.DATASET.get("MAKE_SPLIT", False) and not osp.exists(split_file)
        folder = self.find_pieces(cfg, can_do_without=[split_file] if make else ())
        images = osp.normpath(osp.join(folder, self.row.images))
        super().__init__(cfg, *(self.make_split(folder, images) if make else read_split(split_file, images)))

    @classmethod
    def split_name(cls):
        """Return the name of the split file."""
        return f"split_zhou_{cls.__name__}.json"

    def make_split(self, folder, images):
        """Return the lists of Datum (train, val, test) by the data set's own annotations, with a warning."""
        self.say(
            f"{folder} has no {self.split_name()}, so DATASET.MAKE_SPLIT made a split: "
            "results are not comparable with published ones"
        )
        train, test = self.row.list_images(folder, images)
        if test is None:
            return split_by_class(train, (0.5, 0.2))
        val, train = split_by_class(train, (0.2,))
        return train, val, test


def read_split(path, images):
    """Return the lists of Datum (train, val, test) of a split file.

    Args:
        path: The split file.
        images: The folder that its paths are relative to.

    Raises:
        UserError: The file has unexpected content.
    """
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
    """Return the reader class of a data set: a SplitReader with the facts of its row."""
    folders = ("cars_train", "cars_test") if row.images == "." else (row.images,)
    split = (
        f"the split of CoOp's DATASETS.md, https://drive.google.com/file/d/{row.split_id}; or DATASET.MAKE_SPLIT True"
    )
    pieces = {
        **{folder: f"it should hold the images, from {row.source}" for folder in folders},
        f"split_zhou_{name}.json": split,
    }
    layout = " and ".join(f"{folder}/" for folder in folders)
    doc = f"<ROOT>/{row.folder} with {layout} and split_zhou_{name}.json; see SplitReader. {row.paper}."
    return type(name, (SplitReader,), {"__doc__": doc, "dataset_dir": row.folder, "row": row, "pieces": pieces})


for _name, _row in TABLE.items():
    DATASET_REGISTRY.register(make_reader(_name, _row), fallback=True)  # a user's reader of this name wins


@DATASET_REGISTRY.register(fallback=True)
class FGVCAircraft(Reader):
    """<ROOT>/fgvc_aircraft with images/, variants.txt and images_variant_{train,val,test}.txt.

    Labels follow the lines of variants.txt.
    Maji et al., "Fine-Grained Visual Classification of Aircraft", arXiv 1306.5151.

    Raises:
        FileNotFoundError: A list or the folder of images is missing.
        UserError: A list names a variant that variants.txt lacks.
    """

    dataset_dir = "fgvc_aircraft"
    pieces = {
        piece: "it is in data/ of https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, renamed fgvc_aircraft/"
        for piece in ("images", "variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS))
    }

    def __init__(self, cfg):
        folder = self.find_pieces(cfg)
        super().__init__(cfg, *(list(list_variants(folder, split)) for split in SPLITS))


def list_variants(folder, split):
    """Yield a Datum for each line "image variant" of a split's list in the folder of FGVC-Aircraft.

    Raises:
        UserError: variants.txt lacks a variant.
    """
    names, path = osp.join(folder, "variants.txt"), osp.join(folder, f"images_variant_{split}.txt")
    labels = {variant: label for label, variant in enumerate(read_lines(names))}
    for line in read_lines(path):
        image, variant = parse_words(path, line, 2)
        yield Datum(osp.join(folder, "images", f"{image}.jpg"), pick(labels, variant, names), classname=variant)

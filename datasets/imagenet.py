"""ImageNet (ILSVRC 2012) with 1,000 classes, and four test sets of the same classes from other distributions.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. https://www.image-net.org
"""

import os.path as osp

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError
from datasets.reading import Reader, class_folders, parse_words, read_class_folders, read_lines

IMAGES = "it should hold one folder of images per class, <wnid>/, from https://www.image-net.org"
CLASSNAMES = (
    'it should hold one "<wnid> <class name>" line per class; the file of CoOp\'s DATASETS.md, '
    "https://drive.google.com/file/d/1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF"
)


@DATASET_REGISTRY.register(fallback=True)  # a user's reader of this name wins
class ImageNet(Reader):
    """<ROOT>/imagenet with images/{train,val}/<wnid>/ and classnames.txt of lines "<wnid> <class name>".

    The official validation images are both `val` and `test`. Labels follow the sorted wnids.

    Raises:
        FileNotFoundError: A folder or classnames.txt is missing.
        UserError: train and val have different classes, or a class has no name or no images.
    """

    dataset_dir = "imagenet"
    pieces = {"classnames.txt": CLASSNAMES, "images/train": IMAGES, "images/val": IMAGES}

    def __init__(self, cfg):
        folder = self.find_pieces(cfg)
        classnames = read_classnames(osp.join(folder, "classnames.txt"))
        train, val = (osp.join(folder, "images", split) for split in ("train", "val"))
        names = name_folders(train, classnames)
        if names != name_folders(val, classnames):
            raise UserError(f"{folder}/images: train and val must have the same <wnid> folders")
        test = read_class_folders(val, names)
        super().__init__(cfg, read_class_folders(train, names), test, test)

    def few_shot(self, cfg, train, val=None):
        """Draw training images; the validation images are the test set and stay whole."""
        train, _ = super().few_shot(cfg, train)
        return train, val


def read_classnames(fpath):
    """Return {wnid: class name} in the order of the file.

    Raises:
        UserError: The file is empty, or a line has no class name.
    """
    classnames = dict(parse_words(fpath, line, 2) for line in read_lines(fpath))
    if not classnames:
        raise UserError(f"{fpath} is empty: {CLASSNAMES}")
    return classnames


def name_folders(folder, classnames):
    """Return {wnid: class name} of the folders <folder>/<wnid>/, sorted.

    Raises:
        UserError: A folder has no class name.
    """
    wnids = class_folders(folder)
    for wnid in wnids:
        if wnid not in classnames:
            raise UserError(f"{folder}/{wnid}: classnames.txt has no line for this class")
    return {wnid: classnames[wnid] for wnid in wnids}


def number_folders(folder, classnames):
    """Return {number: class name} of the folders <folder>/<number>/: a number is that of a line of classnames.txt.

    Raises:
        UserError: The folders or the order of classnames.txt are wrong.
    """
    numbers = [str(number) for number in range(len(classnames))]
    if class_folders(folder) != sorted(numbers):
        raise UserError(f"{folder} must have the folders 0 to {numbers[-1]}, one for each line of classnames.txt")
    if list(classnames) != sorted(classnames):
        raise UserError(f"classnames.txt beside {folder} must be sorted by <wnid>: the folders count its lines")
    return dict(zip(numbers, classnames.values(), strict=True))


class Variant(Reader):
    """A test set with ImageNet's classes or some of them. All its images are `train_x` and `test`.

    Raises:
        FileNotFoundError: A folder or classnames.txt is missing.
        UserError: A class has no name or no images.
    """

    images = ""  # folder of the images
    name_folders = staticmethod(name_folders)

    def __init__(self, cfg):
        folder = self.find_pieces(cfg)
        images = osp.join(folder, self.images)
        items = read_class_folders(
            images, self.name_folders(images, read_classnames(osp.join(folder, "classnames.txt")))
        )
        super().__init__(cfg, items, [], items)

    def few_shot(self, cfg, train, val=None):
        """Draw nothing: DATASET.NUM_SHOTS is about the training images of ImageNet."""
        return train, val


# name: (folder, folder of the images, function that names their folders, source, paper)
VARIANTS = {
    "ImageNetV2": (
        "imagenetv2",
        "imagenetv2-matched-frequency-format-val",
        number_folders,
        "https://github.com/modestyachts/ImageNetV2 (matched-frequency)",
        'Recht et al., "Do ImageNet Classifiers Generalize to ImageNet?", ICML 2019',
    ),
    "ImageNetSketch": (
        "imagenet-sketch",
        "images",
        name_folders,
        "https://github.com/HaohanWang/ImageNet-Sketch",
        'Wang et al., "Learning Robust Global Representations by Penalizing Local Predictive Power", NeurIPS 2019',
    ),
    "ImageNetA": (
        "imagenet-adversarial",
        "imagenet-a",
        name_folders,
        "https://github.com/hendrycks/natural-adv-examples",
        'Hendrycks et al., "Natural Adversarial Examples", CVPR 2021',
    ),
    "ImageNetR": (
        "imagenet-rendition",
        "imagenet-r",
        name_folders,
        "https://github.com/hendrycks/imagenet-r",
        'Hendrycks et al., "The Many Faces of Robustness", ICCV 2021',
    ),
}

for _name, (_folder, _images, _names, _source, _paper) in VARIANTS.items():
    _members = {
        "__doc__": f"<ROOT>/{_folder} with {_images}/<class>/ and ImageNet's classnames.txt. {_paper}.",
        "dataset_dir": _folder,
        "images": _images,
        "name_folders": staticmethod(_names),
        "pieces": {"classnames.txt": "copy it from imagenet/", _images: f"it should hold the images, from {_source}"},
    }
    DATASET_REGISTRY.register(type(_name, (Variant,), _members), fallback=True)

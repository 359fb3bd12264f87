"""ImageNet (ILSVRC 2012): 1,000 classes, about 1.28 million training and 50,000 validation images.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. https://www.image-net.org
"""

import os.path as osp

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import UserError, listdir_nohidden


@DATASET_REGISTRY.register(fallback=True)  # a reader of that name of yours comes first
class ImageNet(DatasetBase):
    """<ROOT>/imagenet with images/{train,val}/<wnid>/ and classnames.txt ("<wnid> <class name>" lines).

    The official validation images are both val and test; labels follow the sorted wnids.

    Raises:
        FileNotFoundError: a folder or classnames.txt is missing.
        UserError: train and val have other classes, or one has no name.
    """

    dataset_dir = "imagenet"

    def __init__(self, cfg):
        folder = osp.join(osp.abspath(osp.expanduser(cfg.DATASET.ROOT)), self.dataset_dir)
        classnames = read_classnames(osp.join(folder, "classnames.txt"))
        train = read_images(osp.join(folder, "images", "train"), classnames)
        test = read_images(osp.join(folder, "images", "val"), classnames)
        if {item.classname for item in train} != {item.classname for item in test}:
            raise UserError(f"{folder}/images: train and val must have the same <wnid> folders")
        train, _ = self.few_shot(cfg, train)  # validation images are not drawn: they are the test set
        train, test = self.subsample_classes(train, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=test, test=test)


def read_classnames(fpath):
    """Return {wnid: class name}."""
    if not osp.isfile(fpath):
        raise FileNotFoundError(f'no file {fpath}: it should hold one "<wnid> <class name>" line per class')
    with open(fpath, encoding="utf-8") as file:
        return dict(line.strip().split(" ", 1) for line in file if line.strip())


def read_images(folder, classnames):
    """Return the images of a folder with one sub-folder per wnid, as Datum."""
    if not osp.isdir(folder):
        raise FileNotFoundError(f"no folder {folder}: it should hold one folder of images per class, <wnid>/")
    # Sorted, as the order the file system happens to give would decide which images a few-shot draw takes.
    wnids = [name for name in listdir_nohidden(folder, sort=True) if osp.isdir(osp.join(folder, name))]
    items = []
    for label, wnid in enumerate(wnids):
        if wnid not in classnames:
            raise UserError(f"{folder}/{wnid}: classnames.txt has no line for this class")
        for name in listdir_nohidden(osp.join(folder, wnid), sort=True):
            items.append(Datum(osp.join(folder, wnid, name), label=label, classname=classnames[wnid]))
    return items

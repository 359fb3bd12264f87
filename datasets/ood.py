"""Images of other kinds than a data set's classes, without labels, for out-of-distribution (OOD) detection.

The four far sets of the large-scale benchmark: Huang and Li, "MOS: Towards Scaling Out-of-distribution Detection for
Large Semantic Space", CVPR 2021. https://github.com/deeplearning-wisc/large_scale_ood

A further far set, OpenImage-O: Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022. Near
sets hold kinds that are like ImageNet's classes. SSB-hard: Vaze et al., "Open-Set Recognition: A Good Closed-Set
Classifier is All You Need?", ICLR 2022. NINCO: Bitterwolf et al., "In or Out? Fixing ImageNet Out-of-Distribution
Detection Evaluation", ICML 2023. The folders of these three are OpenOOD v1.5's (Zhang et al., arXiv 2306.09301).
"""

import os.path as osp

from dassl.utils import UserError, note

# name: folder under the root of the data sets
LARGE_SCALE = {
    "iNaturalist": "iNaturalist/images",
    "SUN": "SUN/images",
    "Places": "Places/images",
    "Textures": "dtd/images",
}
NEAR = {"SSB-hard": "ssb_hard", "NINCO": "ninco"}
OOD_SETS = {**LARGE_SCALE, "OpenImage-O": "openimage_o/images", **NEAR}
# Readers of other pictures of ImageNet's classes: covariate-shifted, yet in-distribution.
SHIFTED = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")


def source_of(name):
    """Return where to get an OOD set, in words."""
    if name in LARGE_SCALE:
        return "https://github.com/deeplearning-wisc/large_scale_ood links the four sets"
    return "https://github.com/Jingkang50/OpenOOD links the sets of its version 1.5"


def read_ood(name, root=""):
    """List the images of an OOD set.

    Args:
        name: one of OOD_SETS, at <root>/<its folder>; the path of any folder, of which all subfolders are read, too; or
            the path of a list of images, a .txt file. A line of it is a path, absolute or under <root>, and perhaps a
            blank and a label, which is not read.
        root: Root of the data sets.

    Returns:
        List of Datum with label -1, of a folder sorted by path. Their class name is the name of the set, or of the
        folder or the list.

    Raises:
        FileNotFoundError: The folder, or an image of the list, is missing.
        UserError: There are no images, or the list cannot be read.
    """
    # These import torch; commands list OOD_SETS in their --help without it.
    from dassl.data.datasets import Datum
    from datasets.files import LeftOut, link_free_walk

    folder = osp.join(root, OOD_SETS[name]) if name in OOD_SETS else name
    folder = osp.abspath(osp.expanduser(folder))
    if folder.endswith(".txt") and osp.isfile(folder):
        classname = osp.basename(folder).removesuffix(".txt")
        return [Datum(path, label=-1, classname=classname) for path in read_list(folder, root)]
    if not osp.isdir(folder):
        known = ", ".join(OOD_SETS)
        source = source_of(name)
        raise FileNotFoundError(
            f"no folder {folder} with OOD images: give {known} ({source}) or the path of a folder or of a list (.txt)"
        )
    left_out = LeftOut()
    paths = link_free_walk(folder, left_out)
    if str(left_out):
        note(f"{folder}: {left_out}")
    if not paths:
        raise UserError(f"{folder} holds no images: put OOD images into it or its subfolders")
    classname = name if name in OOD_SETS else osp.basename(folder)
    return [Datum(path, label=-1, classname=classname) for path in paths]


def read_list(fpath, root):
    """Return the paths of images in the lines of a text file, under a root if they are not absolute.

    Raises:
        FileNotFoundError: An image is missing.
        UserError: There is none, or the file cannot be read.
    """
    from datasets.reading import read_lines  # here, as it imports torch

    paths = []
    for line in read_lines(fpath):
        path, _, label = line.rpartition(" ")
        path = osp.abspath(osp.join(osp.expanduser(root), path if path and label.lstrip("-").isdigit() else line))
        if not osp.isfile(path):
            raise FileNotFoundError(f"{fpath} lists {path}, but there is no such image: paths are under {root or '.'}")
        paths.append(path)
    if not paths:
        raise UserError(f"{fpath} lists no images: it should hold a path in each line")
    return paths

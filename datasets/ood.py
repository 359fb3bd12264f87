"""Images of other kinds than a data set's classes, without labels, for out-of-distribution (OOD) detection.

The four sets of the large-scale benchmark: Huang and Li, "MOS: Towards Scaling Out-of-distribution Detection for Large
Semantic Space", CVPR 2021. https://github.com/deeplearning-wisc/large_scale_ood
"""

import os.path as osp

from dassl.utils import UserError, note

# name: folder under the root of the data sets
OOD_SETS = {
    "iNaturalist": "iNaturalist/images",
    "SUN": "SUN/images",
    "Places": "Places/images",
    "Textures": "dtd/images",
}
SOURCE = "https://github.com/deeplearning-wisc/large_scale_ood links the four sets"


def read_ood(name, root=""):
    """List the images of an OOD set and of all its subfolders, sorted by path.

    Args:
        name: iNaturalist, SUN, Places or Textures, at <root>/{iNaturalist,SUN,Places}/images and <root>/dtd/images;
            or the path of any folder of images.
        root: Root of the data sets.

    Returns:
        List of Datum with label -1. Their class name is the name of the set or of the folder.

    Raises:
        FileNotFoundError: The folder is missing.
        UserError: The folder holds no images.
    """
    # These import torch; commands list OOD_SETS in their --help without it.
    from dassl.data.datasets import Datum
    from datasets.files import LeftOut, link_free_walk

    folder = osp.join(root, OOD_SETS[name]) if name in OOD_SETS else name
    folder = osp.abspath(osp.expanduser(folder))
    if not osp.isdir(folder):
        known = ", ".join(OOD_SETS)
        raise FileNotFoundError(f"no folder {folder} with OOD images: give {known} ({SOURCE}) or the path of a folder")
    left_out = LeftOut()
    paths = link_free_walk(folder, left_out)
    if str(left_out):
        note(f"{folder}: {left_out}")
    if not paths:
        raise UserError(f"{folder} holds no images: put OOD images into it or its subfolders")
    classname = name if name in OOD_SETS else osp.basename(folder)
    return [Datum(path, label=-1, classname=classname) for path in paths]

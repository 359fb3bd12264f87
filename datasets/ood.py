"""Images of other kinds than a data set's classes, without labels, for out-of-distribution (OOD) detection.

The four sets of the large-scale benchmark: Huang and Li, "MOS: Towards Scaling Out-of-distribution Detection for Large
Semantic Space", CVPR 2021. https://github.com/deeplearning-wisc/large_scale_ood
"""

import os.path as osp

from dassl.data.datasets import Datum
from dassl.utils import UserError
from datasets.reading import link_free_walk

# name: folder under the root of the data sets
OOD_SETS = {
    "iNaturalist": "iNaturalist/images",
    "SUN": "SUN/images",
    "Places": "Places/images",
    "Textures": "dtd/images",
}
SOURCE = "https://github.com/deeplearning-wisc/large_scale_ood links the four sets"


def read_ood(name, root=""):
    """List the images of an OOD set, folders in folders included, in the order of their paths.

    Args:
        name: iNaturalist, SUN, Places or Textures, at <root>/{iNaturalist,SUN,Places}/images and <root>/dtd/images;
            or the path of any folder of images.

    Returns:
        List of Datum with label -1; their class name is the set's name, or that of the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        UserError: the folder holds no images.
    """
    folder = osp.join(root, OOD_SETS[name]) if name in OOD_SETS else name
    folder = osp.abspath(osp.expanduser(folder))
    if not osp.isdir(folder):
        known = ", ".join(OOD_SETS)
        raise FileNotFoundError(f"no folder {folder} with OOD images: give {known} ({SOURCE}) or the path of a folder")
    paths = link_free_walk(folder)
    if not paths:
        raise UserError(f"{folder} holds no images: put OOD images there, in folders or not")
    classname = name if name in OOD_SETS else osp.basename(folder)
    return [Datum(path, label=-1, classname=classname) for path in paths]

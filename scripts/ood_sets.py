"""OOD sets by their names, and the names of scores and metrics: what the --help of commands needs, without torch."""

from collections import defaultdict

from dassl.config import get_cfg_default
from dassl.utils import UserError
from datasets.ood import LARGE_SCALE, NEAR, SHIFTED, read_ood

SCORES = (
    *("MCM", "L-MCM", "GL-MCM", "MaxLogit", "Energy", "NegLabel", "L-NegLabel", "P-NegLabel"),
    *("PlanLogit", "PlanEntropy", "OffSupport"),
)
METRICS = ("AUROC", "FPR95")
EMBEDDED_OOD = ("Emoji", "Scenes")  # data sets with OOD pictures of their own; each kind of them is a set
DEFAULT_SETS = {"Emoji": ["Emoji"], "FashionMNIST": ["Emoji"], "Scenes": ["Scenes"], "ImageNet": list(LARGE_SCALE)}


def far_and_near(names):
    """Return the names of far OOD sets, and those of near ones (datasets.ood.NEAR)."""
    return [name for name in names if name not in NEAR], [name for name in names if name in NEAR]


def spectra(results):
    """Return {"": results, "full spectrum": those with shifted images, if there are} of the content of an ood.json."""
    return {"": results} | ({"full spectrum": results["full spectrum"]} if "full spectrum" in results else {})


def read_data_set(name, root):
    """Return a data set of the registry, with all its classes.

    Raises:
        OSError: It is missing.
        UserError: It is damaged.
    """
    from datasets.readers import DATASET_REGISTRY  # here, because it imports torch

    cfg = get_cfg_default()
    reader = DATASET_REGISTRY.get(name)
    reader.extend_cfg(cfg)
    cfg.DATASET.ROOT = root
    return reader(cfg)


def embedded_sets(name, root):
    """Return {kind: list of Datum} of the OOD pictures of a data set: flags, letters, scenes without a class, ..."""
    sets = defaultdict(list)
    for item in read_data_set(name, root).ood:
        sets[item.classname].append(item)
    return dict(sorted(sets.items()))


def read_sets(names, root):
    """Return {name: list of Datum} of OOD sets.

    Args:
        names: of EMBEDDED_OOD or OOD_SETS, or folders or lists of images.
        root: folder of the data sets.

    Raises:
        OSError: A set is missing.
        UserError: A set holds no images, or two sets have the same name.
    """
    sets = {}
    for name in names:
        items = embedded_sets(name, root) if name in EMBEDDED_OOD else {(ood := read_ood(name, root))[0].classname: ood}
        shared = sorted(items.keys() & sets.keys())
        if shared:
            raise UserError(f"two OOD sets are called {shared[0]}: give each once, and folders of different names")
        sets.update(items)
    return sets


def read_shifted(names, root):
    """Return a list of Datum: other pictures of a run's classes, such as drawings of them.

    Args:
        names: of SHIFTED, whose test images are read, or folders or lists of images.
        root: folder of the data sets.

    Raises:
        OSError, UserError: as in ``read_sets``.
    """
    return [
        item for name in names for item in (read_data_set(name, root).test if name in SHIFTED else read_ood(name, root))
    ]

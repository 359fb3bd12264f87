from dassl.utils import Registry

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg):
    """Return the data set named cfg.DATASET.NAME; by PROTOCOL strict it has no validation images.

    Raises:
        UserError: The name is unknown.
    """
    dataset = DATASET_REGISTRY.build(cfg.DATASET.NAME, "data set (DATASET.NAME)", cfg)
    if cfg.PROTOCOL == "strict":
        dataset.leave_out_validation()
    return dataset


def reads_exif(name):
    """Return whether the reader of a name wants EXIF data and colour profiles to be followed (INPUT.EXIF auto)."""
    return bool(getattr(DATASET_REGISTRY.find(name), "exif", False))

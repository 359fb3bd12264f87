from dassl.utils import Registry

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg):
    """Make the reader that cfg.DATASET.NAME names."""
    return DATASET_REGISTRY.build(cfg.DATASET.NAME, "data set (DATASET.NAME)", cfg)

from dassl.utils import Registry, check_availability

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg):
    """Make the reader that cfg.DATASET.NAME names."""
    name = cfg.DATASET.NAME
    check_availability(name, DATASET_REGISTRY.registered_names(), "data set (DATASET.NAME)")
    if cfg.VERBOSE:
        print(f"Loading dataset: {name}")
    return DATASET_REGISTRY.get(name)(cfg)

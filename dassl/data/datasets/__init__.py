from .base_dataset import DatasetBase, Datum, hash_images
from .build import DATASET_REGISTRY, build_dataset, reads_exif

"""Imports every module of this folder, so that its data sets register themselves in DATASET_REGISTRY.

A file that is added to the folder needs no entry anywhere.
"""

import datasets
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import import_modules

__all__ = ["DATASET_REGISTRY"]

# The commands and this module register nothing.
import_modules(datasets.__name__, datasets.__path__, leave_out=("check", "prepare", "readers"))

"""Compose the configuration of a run from defaults, files and values, and read it back from the run's folder."""

import glob
import hashlib
import math
import os.path as osp
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.plugins import load_plugins
from dassl.utils import UserError
from dassl.utils.registry import REGISTRIES

from .checks import check_ranges, check_values
from .defaults import get_cfg_default
from .merge import flatten, merge_file, merge_pairs, read_flat

FILE = "config.yaml"  # in a run's folder
# Keys, or their beginnings, that may change when a run is continued: where and how long it runs and what it prints,
# not what it learns.
FREE_KEYS = (
    *("OUTPUT_DIR", "RESUME", "USE_CUDA", "VERBOSE", "TRAIN.", "TEST.", "INPUT.FEATURE_", "TRAINER.MEMORY_BUDGET"),
    *("DATASET.ROOT", "DATALOADER.NUM_WORKERS", "DATALOADER.ON_ERROR", "DATALOADER.TEST.", "OPTIM.MAX_EPOCH"),
)
# Keys, or their beginnings, that cannot change a result: paths, and what is kept and shown.
WITHOUT_RESULT = (
    *("OUTPUT_DIR", "RESUME", "VERBOSE", "DATASET.ROOT", "INPUT.FEATURE_", "TRAIN.", "TEST.PER_CLASS_RESULT"),
    *("TEST.COMPUTE_CMAT", "TEST.DECIMALS"),
)


def compose(
    files: Iterable[str | Path] = (), values: Mapping[str, Any] | None = None, allow_new_keys: bool = False
) -> CfgNode:
    """Return the frozen configuration of a run.

    The order is: defaults, keys that registered trainers and data sets add, files, values. The later one wins.

    Args:
        files: Paths of YAML files.
        values: {"A.B.C": value} as for `merge_pairs`.
        allow_new_keys: Add unknown keys TRAINER.<NODE>.<KEY> instead of refusing them.

    Raises:
        OSError: A file is missing.
        UserError: A file is damaged, or a key or a value is wrong.
    """
    files = list(files)
    # Read now, to report a missing or damaged file: plugins import torch, which takes seconds.
    given = {key: value for source in (*map(read_flat, files), values or {}) for key, value in source.items()}
    load_plugins()
    cfg = with_registered_keys()
    for fpath in files:
        merge_file(cfg, fpath, allow_new_keys, shots=number_of_shots(given.get("DATASET.NUM_SHOTS")))
    merge_pairs(cfg, values or {}, allow_new_keys)
    if cfg.INPUT.EXIF == "auto":  # decided now: predictions do without the reader
        cfg.INPUT.EXIF = "on" if getattr(registered("DATASET", cfg.DATASET.NAME), "exif", False) else "off"
    cfg.freeze()
    check_values(cfg)
    check_ranges(cfg, method_ranges(cfg))
    return cfg


def number_of_shots(value: Any) -> float:
    """Return the images per class of a value of DATASET.NUM_SHOTS, infinity for all of them."""
    shots = CfgNode._decode_cfg_value(value)
    return shots if isinstance(shots, int) and shots > 0 else math.inf


def with_registered_keys() -> CfgNode:
    """Return the defaults with the keys that registered trainers and data sets add."""
    cfg = get_cfg_default()
    for registry in REGISTRIES.values():
        registry.extend_cfg(cfg)
    return cfg


def registered(kind: str, name: str) -> Any:
    """Return the class of a name in the registry "TRAINER", "DATASET", ...; None if it is missing."""
    return REGISTRIES[kind].find(name) if kind in REGISTRIES else None


def method_ranges(cfg: CfgNode) -> dict[str, str]:
    """Return {key: interval} of the trainer's numbers, from the RANGES of its class."""
    trainer = registered("TRAINER", cfg.TRAINER.NAME)  # an unknown name is an error when it is built
    name, ranges = getattr(trainer, "NODE", None), getattr(trainer, "RANGES", {})
    return {f"TRAINER.{name}.{key}": interval for key, interval in ranges.items() if key in cfg.TRAINER.get(name, {})}


def read_config(folder: str | Path, values: Mapping[str, Any] | None = None) -> CfgNode:
    """Return the frozen configuration of the run in a folder.

    Unknown keys are kept: they may belong to plugins that are not installed here.

    Args:
        folder: Folder of the run.
        values: {"A.B.C": value} to change.

    Raises:
        UserError: The folder holds no run, or its configuration file is damaged.
    """
    fpath = osp.join(folder, FILE)
    if not osp.isfile(fpath):
        raise UserError(f"{folder} is no run: it has no {FILE}")
    cfg = with_registered_keys()
    merge_file(cfg, fpath, allow_new_keys=True, admit=lambda key: True)
    merge_pairs(cfg, values or {})
    cfg.freeze()
    return cfg


def changed_settings(cfg: CfgNode, folder: str | Path, free: tuple[str, ...] = FREE_KEYS) -> str:
    """Return how `cfg` differs from the configuration of the run in a folder.

    Args:
        cfg: The new configuration.
        folder: Folder of the run.
        free: Beginnings of the keys that may differ.

    Returns:
        "KEY old -> new, ...", or "" if nothing differs or the folder holds no run.
    """
    fpath = osp.join(folder, FILE)
    if not osp.isfile(fpath):
        return ""
    old, new = read_flat(fpath), flatten(yaml.safe_load(cfg.dump()))
    if getattr(registered("DATASET", cfg.DATASET.NAME), "dataset_dir", None) == "":
        free = tuple(key for key in free if key != "DATASET.ROOT")  # own images: the root is the data set
    changed = [key for key in old if key in new and old[key] != new[key] and not key.startswith(free)]
    return ", ".join(f"{key} {old[key]} -> {new[key]}" for key in changed)


def has_checkpoint(folder: str | Path) -> bool:
    """Return whether a run's folder holds a checkpoint."""
    return bool(glob.glob(osp.join(glob.escape(str(folder)), "*", "checkpoint")))


def check_same_run(cfg: CfgNode) -> None:
    """Check that a continued run keeps its settings; otherwise its results would belong to neither.

    Raises:
        UserError: The settings differ.
    """
    folder = cfg.RESUME or cfg.OUTPUT_DIR
    if has_checkpoint(folder) and (changes := changed_settings(cfg, folder)):
        raise UserError(f"{folder} holds a run with other settings ({changes}): choose another --output-dir")


def config_hash(cfg: CfgNode) -> str:
    """Return 16 hexadecimal digits that identify all settings that can change a result.

    Of a file of weights, the content counts instead of the path.
    """
    settings = flatten(yaml.safe_load(cfg.dump()))
    settings = {key: value for key, value in settings.items() if not key.startswith(WITHOUT_RESULT)}
    weights = settings["MODEL.BACKBONE.NAME"]
    if osp.isfile(weights):
        settings["MODEL.BACKBONE.NAME"] = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:16]

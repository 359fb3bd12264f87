"""Merge YAML files and KEY VALUE pairs into a configuration."""

import math
import os.path as osp
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.plugins import HOME
from dassl.utils import UserError, similar_names

BASE = "_BASE_"  # key of a YAML file whose value is the path of another one, which is merged first
UP_TO_SHOTS = "_UP_TO_SHOTS_"  # key of a YAML file: {images per class: keys and values up to this number of them}
SWITCH = ("auto", "on", "off")  # values of a key that takes these words
ALIASES = 16  # most aliases in a YAML file: nested ones can stand for more values than fit into memory


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as one dict {"A.B.C": value}."""
    flat = {}
    for key, value in tree.items():
        full_key = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{full_key}."))
        else:
            flat[full_key] = value
    return flat


def is_method_key(key: str) -> bool:
    """Return whether a key is TRAINER.<NODE>.<KEY>."""
    return key.startswith("TRAINER.") and key.count(".") > 1


def merge_pairs(
    cfg: CfgNode,
    pairs: Mapping[str, Any],
    allow_new_keys: bool = False,
    admit: Callable[[str], bool] = is_method_key,
) -> None:
    """Set keys of `cfg` by yacs' rules: strings are decoded, and types must match those of the defaults.

    Unlike in yacs, a whole number may replace a fraction.

    Args:
        cfg: The configuration to change.
        pairs: {"A.B.C": value}.
        allow_new_keys: Add unknown keys instead of refusing them, for trainers that declare none.
        admit: Function of an unknown key that returns whether `allow_new_keys` may add it.

    Raises:
        UserError: A key is unknown, or a value has another type.
    """
    known = flatten(cfg)
    for key, value in pairs.items():
        if key not in known and allow_new_keys and admit(key):
            add_key(cfg, key, value)
            continue
        if key not in known:
            leaf = f".{key.split('.')[-1]}"
            nearest = similar_names(key, known) or [other for other in known if other.endswith(leaf)]
            hint = f"; the nearest are {', '.join(nearest)}" if nearest else ""
            raise UserError(f"unknown config key {key}{hint}")
        try:
            if known[key] in SWITCH and isinstance(CfgNode._decode_cfg_value(value), bool):
                value = "on" if CfgNode._decode_cfg_value(value) else "off"  # as YAML reads the words
            if isinstance(known[key], float) and type(number := CfgNode._decode_cfg_value(value)) is int:
                value = float(number)
            cfg.merge_from_list([key, value])
        except ValueError as error:
            expected = type(known[key]).__name__
            raise UserError(f"config key {key} takes a value of type {expected}, got {value!r}") from error


def add_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Add a key and the nodes above it."""
    *path, leaf = key.split(".")
    for name in path:
        cfg = cfg.setdefault(name, CfgNode())
    cfg[leaf] = CfgNode._decode_cfg_value(value)


def find_file(fpath: str | Path) -> str | Path:
    """Return the path of a configuration file: configs/... is in the checkout if it is not in the current folder."""
    return fpath if osp.exists(fpath) or not osp.isfile(osp.join(HOME, fpath)) else osp.join(HOME, fpath)


def read_flat(fpath: str | Path, shots: float = math.inf) -> dict[str, Any]:
    """Return a YAML file as {"A.B.C": value}, merged over its `_BASE_` if it has one.

    Args:
        fpath: Path of the file.
        shots: Training images per class: of `_UP_TO_SHOTS_` the smallest number from this one on counts.

    Raises:
        FileNotFoundError: The file is missing.
        UserError: It is no YAML mapping, or is its own base.
    """
    return read_tree(fpath, shots, ())


def read_tree(fpath: str | Path, shots: float, above: tuple[str, ...]) -> dict[str, Any]:
    """Return what `read_flat` does; `above` holds the real paths of the files whose base this one is."""
    fpath = find_file(fpath)
    if osp.realpath(fpath) in above:
        raise UserError(f"{fpath} is its own {BASE}: give the path of another file")
    if not osp.isfile(fpath):
        raise FileNotFoundError(f"no config file at {fpath}")
    try:
        with open(fpath, encoding="utf-8") as file:
            text = file.read()
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > ALIASES:
            raise UserError(f"{fpath} has more than {ALIASES} YAML aliases: write the values out")
        tree = yaml.safe_load(text) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{fpath} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{fpath} must hold config keys and values, got {type(tree).__name__}")
    base, of_shots = tree.pop(BASE, None), tree.pop(UP_TO_SHOTS, {})
    if not isinstance(of_shots, dict) or not all(
        isinstance(number, int) and isinstance(part, dict) for number, part in of_shots.items()
    ):
        raise UserError(f"{fpath}: {UP_TO_SHOTS} must map numbers of images to config keys and values")
    nearest = min((number for number in of_shots if number >= shots), default=None)
    own = {**flatten(tree), **flatten(of_shots.get(nearest, {}))}
    if base is None:
        return own
    if not isinstance(base, str):
        raise UserError(f"{fpath}: {BASE} must be the path of a YAML file, got {base!r}")
    return {**read_tree(osp.join(osp.dirname(fpath), base), shots, (*above, osp.realpath(fpath))), **own}


def merge_file(
    cfg: CfgNode,
    fpath: str | Path,
    allow_new_keys: bool = False,
    admit: Callable[[str], bool] = is_method_key,
    shots: float = math.inf,
) -> None:
    """Set keys of `cfg` from a YAML file; the other arguments are those of `merge_pairs` and `read_flat`.

    Raises:
        FileNotFoundError: The file is missing.
        UserError: It is no YAML mapping, a key is unknown, or a value has another type.
    """
    pairs = read_flat(fpath, shots)
    try:
        merge_pairs(cfg, pairs, allow_new_keys, admit)
    except UserError as error:
        raise UserError(f"{error} (in {fpath})") from None

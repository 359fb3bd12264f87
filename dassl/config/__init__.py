"""The configuration: a yacs CfgNode with defaults, merged from files and KEY VALUE pairs."""

import os.path as osp

import yaml
from yacs.config import CfgNode

from dassl.utils import UserError, similar_names

from .checks import check_ranges, check_values, flatten
from .defaults import _C

__all__ = [
    *("check_ranges", "check_values", "clean_cfg", "flatten", "get_cfg_default"),
    *("merge_file", "merge_pairs", "read_flat"),
]

ALIASES = 16  # of a YAML file: a few more can stand for more values than any memory holds


def get_cfg_default():
    """Return a fresh copy of the defaults."""
    return _C.clone()


def clean_cfg(cfg, trainer):
    """Remove the nodes of all trainers but `trainer` from cfg.TRAINER."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)


def merge_pairs(cfg, pairs, allow_new_keys=False):
    """Set `cfg` from {"A.B.C": value}, by yacs' rules (strings are decoded, types must agree), and whole
    numbers where there may be others.

    Args:
        allow_new_keys: make keys TRAINER.<NODE>.<KEY> that do not exist, for trainers that declare none.

    Raises:
        UserError: no such key, or a value of another type.
    """
    known = flatten(cfg)
    for key, value in pairs.items():
        if key not in known and allow_new_keys and key.startswith("TRAINER.") and key.count(".") > 1:
            *path, leaf = key.split(".")
            node = cfg
            for name in path:
                node = node.setdefault(name, CfgNode())
            node[leaf] = CfgNode._decode_cfg_value(value)
            continue
        if key not in known:
            leaf = f".{key.split('.')[-1]}"
            nearest = similar_names(key, known) or [other for other in known if other.endswith(leaf)]
            hint = f"; the nearest are {', '.join(nearest)}" if nearest else ""
            raise UserError(f"unknown config key {key}{hint}")
        try:
            if isinstance(known[key], float) and type(number := CfgNode._decode_cfg_value(value)) is int:
                value = float(number)
            cfg.merge_from_list([key, value])
        except ValueError as error:
            expected = type(known[key]).__name__
            raise UserError(f"config key {key} takes a value of type {expected}, got {value!r}") from error


def read_flat(fpath):
    """The keys and values of a YAML file as `flatten` gives them.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no YAML mapping.
    """
    if not osp.isfile(fpath):
        raise FileNotFoundError(f"no config file at {fpath}")
    try:
        with open(fpath, encoding="utf-8") as file:
            text = file.read()
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > ALIASES:
            raise UserError(f"{fpath} refers to itself more than {ALIASES} times: write the values out")
        tree = yaml.safe_load(text) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{fpath} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{fpath} must hold config keys and values, got {type(tree).__name__}")
    return flatten(tree)


def merge_file(cfg, fpath, allow_new_keys=False):
    """Set `cfg` from a YAML file; `allow_new_keys` as in `merge_pairs`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no YAML mapping, names an unknown key, or gives a value of another type.
    """
    pairs = read_flat(fpath)
    try:
        merge_pairs(cfg, pairs, allow_new_keys)
    except UserError as error:
        raise UserError(f"{error} (in {fpath})") from None

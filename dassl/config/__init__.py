"""The configuration of a run: a yacs CfgNode with defaults, merged from files and KEY VALUE pairs."""

from .checks import check_ranges, check_values
from .compose import (
    changed_settings,
    check_same_run,
    compose,
    config_hash,
    has_checkpoint,
    read_config,
)
from .defaults import clean_cfg, get_cfg_default
from .merge import find_file, flatten, merge_file, merge_pairs, read_flat

__all__ = [
    *("changed_settings", "check_ranges", "check_same_run", "check_values", "clean_cfg", "compose", "config_hash"),
    *("find_file", "flatten", "get_cfg_default", "has_checkpoint", "merge_file", "merge_pairs", "read_config"),
    "read_flat",
]

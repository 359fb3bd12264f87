"""Helpers that all parts of the toolbox share.

The names of `torchtools` are imported when they are first used, because it imports torch.
"""

import importlib
from typing import TYPE_CHECKING

from .commands import Parser, UserError, command, note, one_line_warnings, user_input
from .distributed import is_main, process_group, same_seed, wait_for_all, world_size
from .files import (
    BEST,
    checkpoint_name,
    copy_file,
    hash_file,
    owned,
    owner,
    read_json,
    replacing,
    write_csv,
    write_json,
)
from .interrupt import Interrupted, raise_together, signals_interrupt, uninterrupted
from .logger import Logger, log_only, setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import Registry, import_modules
from .tools import (
    check_availability,
    check_isfile,
    choose_device,
    collect_env_info,
    git_state,
    listdir_nohidden,
    machine,
    mkdir_if_missing,
    package_versions,
    peak_memory,
    read_image,
    set_determinism,
    set_random_seed,
    similar_names,
    tolist_if_not,
)

if TYPE_CHECKING:
    from .torchtools import (
        count_num_param,
        get_random_state,
        load_checkpoint,
        load_last_checkpoints,
        load_pretrained_weights,
        most_bytes,
        restore_checkpoint,
        resume_from_checkpoint,
        save_checkpoint,
        save_tensors,
        saved_names,
        set_random_state,
    )

TORCHTOOLS = (
    *("count_num_param", "get_random_state", "load_checkpoint", "load_last_checkpoints", "load_pretrained_weights"),
    *("most_bytes", "restore_checkpoint", "resume_from_checkpoint", "save_checkpoint", "save_tensors", "saved_names"),
    "set_random_state",
)


def __getattr__(name):
    if name in TORCHTOOLS:
        return getattr(importlib.import_module(".torchtools", __name__), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")

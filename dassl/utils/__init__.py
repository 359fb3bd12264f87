from .distributed import is_main, process_group, same_seed, wait_for_all, world_size
from .files import copy_file, owned, read_json, replacing, write_csv, write_json
from .interrupt import Interrupted, raise_together, signals_interrupt, uninterrupted
from .logger import Logger, setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import Registry, import_modules
from .tools import (
    UserError,
    check_availability,
    check_isfile,
    collect_env_info,
    git_state,
    listdir_nohidden,
    mkdir_if_missing,
    package_versions,
    read_image,
    set_random_seed,
    similar_names,
    tolist_if_not,
)
from .torchtools import (
    count_num_param,
    get_random_state,
    load_checkpoint,
    load_last_checkpoints,
    load_pretrained_weights,
    restore_checkpoint,
    resume_from_checkpoint,
    save_checkpoint,
    save_tensors,
    saved_names,
    set_random_state,
)

from .logger import Logger, setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import Registry, import_modules
from .tools import (
    UserError,
    check_availability,
    check_isfile,
    collect_env_info,
    listdir_nohidden,
    mkdir_if_missing,
    package_versions,
    read_image,
    read_json,
    set_random_seed,
    similar_names,
    tolist_if_not,
    write_json,
)
from .torchtools import (
    count_num_param,
    load_checkpoint,
    load_last_checkpoint,
    load_pretrained_weights,
    restore_checkpoint,
    resume_from_checkpoint,
    save_checkpoint,
)

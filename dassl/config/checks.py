"""Which values a key may have; what cannot be is told before anything is read."""

from dassl.utils import UserError, check_availability

# Intervals as mathematics writes them: [ ] with the end, ( ) without it. Not-a-number is in none.
RANGES = {
    "INPUT.SIZE": "[1, inf)",
    "INPUT.CACHE_VIEWS": "[0, inf)",
    "INPUT.PIXEL_STD": "(0, inf)",
    "INPUT.RRCROP_SCALE": "(0, inf)",
    "INPUT.CROP_PADDING": "[0, inf)",
    "INPUT.CUTOUT_N": "[0, inf)",
    "INPUT.CUTOUT_LEN": "[1, inf)",
    "INPUT.COLORJITTER_B": "[0, inf)",
    "INPUT.COLORJITTER_C": "[0, inf)",
    "INPUT.COLORJITTER_S": "[0, inf)",
    "INPUT.COLORJITTER_H": "[0, 0.5]",
    "INPUT.RGS_P": "[0, 1]",
    "INPUT.GB_P": "[0, 1]",
    "INPUT.GB_K": "[1, inf)",
    "INPUT.RANDAUGMENT_N": "[0, inf)",
    "INPUT.RANDAUGMENT_M": "[0, 30]",
    "INPUT.GN_STD": "[0, inf)",
    "DATALOADER.NUM_WORKERS": "[0, inf)",
    "DATALOADER.K_TRANSFORMS": "[1, inf)",
    "DATALOADER.TRAIN_X.BATCH_SIZE": "[1, inf)",
    "DATALOADER.TRAIN_X.N_INS": "[1, inf)",
    "DATALOADER.TEST.BATCH_SIZE": "[1, inf)",
    "OPTIM.LR": "[0, inf)",
    "OPTIM.WEIGHT_DECAY": "[0, inf)",
    "OPTIM.MOMENTUM": "[0, 1]",
    "OPTIM.RMSPROP_ALPHA": "[0, 1]",
    "OPTIM.ADAM_BETA1": "[0, 1)",
    "OPTIM.ADAM_BETA2": "[0, 1)",
    "OPTIM.EPS": "[0, inf)",
    "OPTIM.BASE_LR_MULT": "[0, inf)",
    "OPTIM.GAMMA": "[0, inf)",
    "OPTIM.MAX_EPOCH": "[1, inf)",
    "OPTIM.WARMUP_CONS_LR": "[0, inf)",
    "OPTIM.WARMUP_MIN_LR": "[0, inf)",
    "TRAIN.CHECKPOINT_FREQ": "[0, inf)",
    "TRAIN.CHECKPOINT_MINUTES": "[0, inf)",
    "TRAIN.PRINT_FREQ": "[1, inf)",
    "TEST.DECIMALS": "[0, inf)",
    "TRAINER.MEMORY_BUDGET": "[0, inf)",
}
CHOICES = {
    "INPUT.INTERPOLATION": ("nearest", "bilinear", "bicubic"),
    "INPUT.LONG_NAMES": ("stop", "truncate"),
    "DATASET.SUBSAMPLE_CLASSES": ("all", "base", "new"),
    "DATALOADER.ON_ERROR": ("stop", "skip"),
    "TEST.SPLIT": ("test", "val"),
}
LENGTHS = {"INPUT.SIZE": 2, "INPUT.RRCROP_SCALE": 2, "INPUT.PIXEL_MEAN": 3, "INPUT.PIXEL_STD": 3}


def check_values(cfg):
    """Raise UserError, with key, value and what is allowed, for a value of the toolbox's keys that cannot be."""
    for key, length in LENGTHS.items():
        if len(value_of(cfg, key)) != length:
            raise UserError(f"config key {key} must hold {length} numbers, got {value_of(cfg, key)}")
    check_ranges(cfg, RANGES)
    for key, allowed in CHOICES.items():
        check_availability(value_of(cfg, key), allowed, f"value of {key}")
    if cfg.DATASET.NUM_SHOTS == 0:
        raise UserError("config key DATASET.NUM_SHOTS must be 1 or more images of each class, or -1 for all, got 0")
    smallest, largest = cfg.INPUT.RRCROP_SCALE
    if smallest > largest:
        raise UserError(f"config key INPUT.RRCROP_SCALE must hold the smaller share first, got {smallest, largest}")
    if cfg.INPUT.GB_K % 2 == 0:
        raise UserError(f"config key INPUT.GB_K must be odd, got {cfg.INPUT.GB_K}")


def check_ranges(cfg, ranges):
    """Raise UserError for the first number that is not in the interval that {key: interval} has for it."""
    for key, interval in ranges.items():
        value = value_of(cfg, key)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if not is_inside(number, interval):
                raise UserError(f"config key {key} must be in {interval}, got {value}")


def is_inside(number, interval):
    least, most = (float(end) for end in interval[1:-1].split(","))
    return (number >= least if interval[0] == "[" else number > least) and (
        number <= most if interval[-1] == "]" else number < most
    )


def value_of(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg

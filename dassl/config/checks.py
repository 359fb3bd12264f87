"""The allowed values of the toolbox's own keys.

A rule is a pair: a function that returns whether a value is allowed, and the words of the error message for it.
Names of trainers, samplers, optimizers, ... have no rule: they are checked when the object is built. A value is refused
only if no run can use it: scripts of other repositories rely on what upstream's code does with a -1 or a 0.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from yacs.config import CfgNode

from dassl.utils import UserError

from .merge import flatten

Test = Callable[[Any], bool]
Rule = tuple[Test, str]  # and what it allows


def within(low: float, high: float = math.inf, below: float = math.inf) -> Rule:
    """Return the rule of a number from `low` to `high`, both included, and below `below`."""
    ends = f" to {high:g}" if high < math.inf else ""
    ends += f" to below {below:g}" if below < math.inf else ""
    return lambda value: low <= value <= high and value < below, f"a number from {low:g}{ends}"


def one_of(*names: str) -> Rule:
    """Return the rule of a value among `names`."""
    return lambda value: value in names, " or ".join(names)


def several(count: int, rule: Test, allowed: str) -> Rule:
    """Return the rule of `count` values.

    Args:
        count: Number of values.
        rule: Function that returns whether one value is allowed.
        allowed: The words that follow the number of values.
    """
    return lambda value: len(value) == count and all(map(rule, value)), f"{count} {allowed}"


def is_colour(value: str) -> bool:
    """Return whether Pillow knows a colour."""
    from PIL import ImageColor  # here, so that --help answers without it

    try:
        return bool(ImageColor.getrgb(value))
    except (ValueError, AttributeError):
        return False


POSITIVE: Rule = lambda value: value > 0, "a number above 0"  # noqa: E731
FROM_0, FROM_1, SHARE, BELOW_1 = within(0), within(1), within(0, 1), within(0, below=1)
RULES: dict[str, Rule] = {
    "SEED": (lambda value: value < 2**32, "a number below 2 ** 32, or -1 for a run that is not repeatable"),
    "PROTOCOL": one_of("published", "strict"),
    "INPUT.SIZE": several(
        2, lambda value: isinstance(value, int) and value > 0, "numbers of pixels from 1, for height and width"
    ),
    "INPUT.INTERPOLATION": one_of("nearest", "bilinear", "bicubic"),
    "INPUT.EXIF": one_of("auto", "on", "off"),
    "INPUT.BACKGROUND": (is_colour, "a colour by name or as #rrggbb"),
    "INPUT.LONG_NAMES": one_of("stop", "truncate"),
    "INPUT.CACHE_VIEWS": FROM_0,
    "INPUT.PIXEL_MEAN": several(3, math.isfinite, "numbers, for red, green and blue"),
    "INPUT.PIXEL_STD": several(3, POSITIVE[0], "numbers above 0, for red, green and blue"),
    "INPUT.RRCROP_SCALE": (
        lambda value: len(value) == 2 and 0 <= value[0] <= value[1] <= 1 and value[1] > 0,
        "the smallest and the largest share of an image, from 0 and up to 1",
    ),
    "INPUT.CROP_PADDING": FROM_0,
    "INPUT.CUTOUT_N": FROM_0,
    "INPUT.CUTOUT_LEN": FROM_0,
    "INPUT.COLORJITTER_B": FROM_0,
    "INPUT.COLORJITTER_C": FROM_0,
    "INPUT.COLORJITTER_S": FROM_0,
    "INPUT.COLORJITTER_H": within(0, 0.5),
    "INPUT.RGS_P": SHARE,
    "INPUT.GB_P": SHARE,
    "INPUT.GB_K": (lambda value: value > 0 and value % 2 == 1, "an odd number from 1"),
    "INPUT.RANDAUGMENT_N": FROM_0,
    "INPUT.RANDAUGMENT_M": within(0, below=31),
    "INPUT.GN_STD": FROM_0,
    "DATASET.FEW_IMAGES": one_of("take", "stop"),
    "DATASET.SUBSAMPLE_CLASSES": one_of("all", "base", "new"),
    "DATALOADER.NUM_WORKERS": FROM_0,
    "DATALOADER.ON_ERROR": one_of("load", "stop", "skip"),
    "DATALOADER.K_TRANSFORMS": FROM_1,
    "DATALOADER.TRAIN_X.BATCH_SIZE": FROM_1,
    "DATALOADER.TEST.BATCH_SIZE": FROM_1,
    "OPTIM.LR": FROM_0,
    "OPTIM.WEIGHT_DECAY": FROM_0,
    "OPTIM.MOMENTUM": BELOW_1,
    "OPTIM.SGD_DAMPNING": SHARE,
    "OPTIM.RMSPROP_ALPHA": BELOW_1,
    "OPTIM.ADAM_BETA1": BELOW_1,
    "OPTIM.ADAM_BETA2": BELOW_1,
    "OPTIM.EPS": FROM_0,
    "OPTIM.BASE_LR_MULT": FROM_0,
    "OPTIM.STEPSIZE": (lambda value: all(isinstance(epoch, int) for epoch in value), "whole numbers, the epochs"),
    "OPTIM.GAMMA": POSITIVE,
    "OPTIM.MAX_EPOCH": FROM_0,
    "OPTIM.WARMUP_CONS_LR": FROM_0,
    "OPTIM.WARMUP_MIN_LR": FROM_0,
    "TRAIN.PRINT_FREQ": (lambda value: value != 0, "a number of batches, not 0"),
    "TEST.DECIMALS": within(0, 15),
    "TEST.SPLIT": one_of("test", "val"),
    "TRAINER.MEMORY_BUDGET": FROM_0,
}


def check_values(cfg: CfgNode) -> None:
    """Check the values of the toolbox's keys, and that all numbers are finite.

    The trainers' numbers have RANGES (`check_ranges`); their other values are checked by the trainers.

    Raises:
        UserError: A value is not allowed. The message gives key, value and what is allowed.
    """
    values = flatten(cfg)
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config key {key} must be a finite number, got {value}")
    for key, (fits, allowed) in RULES.items():
        try:
            fine = fits(values[key])
        except TypeError:  # a word where a number should be
            fine = False
        if not fine:
            raise UserError(f"config key {key} must be {allowed}, got {values[key]!r}")
    for key, value in {"TEST.FINAL_MODEL": "best_val", "TEST.SPLIT": "val"}.items():
        if cfg.PROTOCOL == "strict" and values[key] == value:
            raise UserError(f"{key} {value} needs validation images: PROTOCOL strict has none, so drop one of the two")
    if cfg.INPUT.CACHE_VIEWS and not cfg.INPUT.FEATURE_CACHE:
        raise UserError(f"INPUT.CACHE_VIEWS {cfg.INPUT.CACHE_VIEWS} needs a folder INPUT.FEATURE_CACHE")
    optim, train_x = cfg.OPTIM, cfg.DATALOADER.TRAIN_X
    if optim.LR_SCHEDULER == "single_step" and not optim.STEPSIZE:
        raise UserError("OPTIM.LR_SCHEDULER single_step needs a number of epochs in OPTIM.STEPSIZE, got ()")
    if train_x.SAMPLER == "RandomClassSampler" and train_x.N_INS < 1:
        raise UserError(f"RandomClassSampler needs a DATALOADER.TRAIN_X.N_INS from 1, got {train_x.N_INS}")
    if optim.NAME == "sgd" and optim.SGD_NESTEROV and not (optim.MOMENTUM and not optim.SGD_DAMPNING):
        raise UserError("OPTIM.SGD_NESTEROV True needs an OPTIM.MOMENTUM above 0 and OPTIM.SGD_DAMPNING 0")


def check_ranges(cfg: CfgNode, ranges: Mapping[str, str]) -> None:
    """Check that numbers lie in their intervals.

    Args:
        cfg: The configuration.
        ranges: {key: interval}, with intervals as in mathematics: "[0, 1)" includes 0 and excludes 1.

    Raises:
        UserError: A number is outside.
    """
    values = flatten(cfg)
    for key, interval in ranges.items():
        if not is_inside(values[key], interval):
            raise UserError(f"config key {key} must be in {interval}, got {values[key]}")


def is_inside(number: float, interval: str) -> bool:
    """Return whether a number lies in an interval like "[0, 1)"."""
    least, most = (float(end) for end in interval[1:-1].split(","))
    return (number >= least if interval[0] == "[" else number > least) and (
        number <= most if interval[-1] == "]" else number < most
    )

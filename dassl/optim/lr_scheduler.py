"""Schedules of the learning rate over epochs."""

import bisect
import math

from torch.optim.lr_scheduler import LRScheduler

from dassl.utils import check_availability

SCHEDULERS = ("single_step", "multi_step", "cosine")
WARMUPS = ("constant", "linear")


class EpochLR(LRScheduler):
    """Learning rate as a function of the epoch alone.

    Args:
        optimizer: The optimizer to drive. It is never part of the saved state.
        lr_at: Function (base learning rate, epoch from 0) -> learning rate. It is not saved either, because the
            configuration gives it: the state is numbers only.
    """

    def __init__(self, optimizer, lr_at):
        self.lr_at = lr_at
        super().__init__(optimizer)

    def get_lr(self):
        return [self.lr_at(base, self.last_epoch) for base in self.base_lrs]

    def state_dict(self):
        return {key: value for key, value in super().state_dict().items() if key != "lr_at"}

    def load_state_dict(self, state_dict):
        """Load the known entries of a state; those of upstream Dassl have more."""
        super().load_state_dict({key: state_dict[key] for key in self.state_dict().keys() & state_dict.keys()})


def build_lr_scheduler(optimizer, optim_cfg):
    """Return the schedule that `optim_cfg` (cfg.OPTIM) describes; call its `step()` once per epoch.

    Raises:
        ValueError: LR_SCHEDULER or WARMUP_TYPE is unknown.
    """
    check_availability(optim_cfg.LR_SCHEDULER, SCHEDULERS, "schedule (OPTIM.LR_SCHEDULER)")
    decay = decay_function(optim_cfg)
    warmup = max(optim_cfg.WARMUP_EPOCH, 0)
    if warmup:
        check_availability(optim_cfg.WARMUP_TYPE, WARMUPS, "warm-up (OPTIM.WARMUP_TYPE)")
    # Without recount the schedule starts at the epoch where the warm-up ends, divided by its value there: either way
    # the first epoch after the warm-up has the full learning rate, as in upstream Dassl.
    offset = 0 if optim_cfg.WARMUP_RECOUNT else warmup
    full = decay(offset) or 1.0  # a cosine is 0 where the warm-up takes all epochs

    def lr_at(base, epoch):
        if epoch >= warmup:
            return base * decay(epoch - warmup + offset) / full
        if optim_cfg.WARMUP_TYPE == "constant":
            return optim_cfg.WARMUP_CONS_LR
        return base * epoch / warmup if epoch else optim_cfg.WARMUP_MIN_LR

    return EpochLR(optimizer, lr_at)


def decay_function(optim_cfg):
    """Return the function epoch -> factor of the base learning rate."""
    gamma, stepsize, epochs = optim_cfg.GAMMA, optim_cfg.STEPSIZE, max(optim_cfg.MAX_EPOCH, 1)
    if optim_cfg.LR_SCHEDULER == "cosine":
        return lambda epoch: (1 + math.cos(math.pi * epoch / epochs)) / 2
    if optim_cfg.LR_SCHEDULER == "multi_step":
        return lambda epoch: gamma ** bisect.bisect_right(sorted(stepsize), epoch)
    step = stepsize[-1] if stepsize[-1] > 0 else epochs
    return lambda epoch: gamma ** (epoch // step)

"""Optimizers, chosen by name."""

import warnings

import torch
from torch import nn

from dassl.utils import check_availability

from .radam import RAdam

OPTIMIZERS = ("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")


def build_optimizer(model, optim_cfg, param_groups=None):
    """Return the optimizer that `optim_cfg` (cfg.OPTIM) describes.

    Args:
        model: A module, or an iterable of parameters or parameter groups.
        optim_cfg: The node OPTIM of the configuration.
        param_groups: Parameter groups that replace the model's parameters.

    Raises:
        ValueError: OPTIM.NAME is unknown.
        TypeError: OPTIM.STAGED_LR is set, but `model` is no module.
    """
    check_availability(optim_cfg.NAME, OPTIMIZERS, "optimizer (OPTIM.NAME)")
    if param_groups is not None:
        if optim_cfg.STAGED_LR:
            warnings.warn("OPTIM.STAGED_LR is ignored because param_groups are given", stacklevel=2)
        params = param_groups
    elif optim_cfg.STAGED_LR:
        params = staged_groups(model, optim_cfg)
    else:
        params = model.parameters() if isinstance(model, nn.Module) else model

    common = {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY}
    if optim_cfg.NAME == "sgd":
        dampening, nesterov = optim_cfg.SGD_DAMPNING, optim_cfg.SGD_NESTEROV
        return torch.optim.SGD(params, momentum=optim_cfg.MOMENTUM, dampening=dampening, nesterov=nesterov, **common)
    common["eps"] = optim_cfg.EPS
    if optim_cfg.NAME == "rmsprop":
        return torch.optim.RMSprop(params, momentum=optim_cfg.MOMENTUM, alpha=optim_cfg.RMSPROP_ALPHA, **common)
    common["betas"] = (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)
    if optim_cfg.NAME == "radam":
        return RAdam(params, **common)
    if optim_cfg.NAME == "adamw":
        return torch.optim.AdamW(params, **common)
    return torch.optim.Adam(params, amsgrad=optim_cfg.NAME == "amsgrad", **common)


def staged_groups(model, optim_cfg):
    """Return two parameter groups: children not in NEW_LAYERS with LR * BASE_LR_MULT, then those in it with LR."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR needs a module, got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        model = model.module
    base, new = [], []
    for name, child in model.named_children():
        (new if name in optim_cfg.NEW_LAYERS else base).extend(child.parameters())
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]

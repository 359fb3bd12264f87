"""Run in a checkout: what upstream lacks must not exist in the stand-in."""

import importlib

import pytest
import torch

from dassl.config import get_cfg_default
from dassl.data import DataManager
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer

for module in ("finished", "plugins", "engine.base", "engine.simple", "utils.commands"):
    with pytest.raises(ImportError):
        importlib.import_module(f"dassl.{module}")
for module, name in {"data.samplers": "EpochSeeds", "utils": "UserError", "metrics": "auroc"}.items():
    assert not hasattr(importlib.import_module(f"dassl.{module}"), name)


class Ours(TrainerX):
    def __init__(self):  # without data
        pass

    def by_super(self, name):
        return getattr(super(), name)


for name in ("batches_to_evaluate", "split_to_evaluate", "made_with", "start_batch"):
    for look_up in (Ours().by_super, Ours().__getattribute__):
        with pytest.raises(AttributeError):
            look_up(name)

Ours().detect_anomaly(torch.ones(()))
for arguments, more in (((torch.ones(()), {}), {}), ((torch.ones(()),), {"what": "A gradient"})):
    with pytest.raises(TypeError):
        Ours().detect_anomaly(*arguments, **more)
with pytest.raises(TypeError):
    compute_accuracy(torch.ones(2, 3), torch.zeros(2), best=1)
with pytest.raises(TypeError):
    DataManager(get_cfg_default(), transform=None)

cfg = get_cfg_default()
for key in ("INPUT.FEATURE_CACHE", "DATALOADER.ON_ERROR", "TRAINER.MEMORY_BUDGET", "TEST.DECIMALS", "OPTIM.EPS"):
    with pytest.raises(AssertionError):
        cfg.merge_from_list([key, "1"])
optimizer = build_optimizer(torch.nn.Linear(2, 2), cfg.OPTIM)
build_lr_scheduler(optimizer, cfg.OPTIM)
cfg.OPTIM.WARMUP_EPOCH = 1
with pytest.raises(TypeError):
    build_lr_scheduler(optimizer, cfg.OPTIM)

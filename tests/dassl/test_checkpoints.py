"""Checkpoints: saved and resumed, those of others, those that are damaged or would run code."""

import importlib
import io
import math
import os
import pickle
import random
import time
import warnings
import zipfile
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler
from dassl.utils import (
    UserError,
    load_checkpoint,
    load_pretrained_weights,
    most_bytes,
    resume_from_checkpoint,
    save_checkpoint,
)


def make_parts():
    model = nn.Linear(2, 2)
    optim = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optim, torch.optim.lr_scheduler.ExponentialLR(optim, 0.5)


def test_checkpoint_round_trip(tmp_path, capsys):
    model, optim, sched = make_parts()
    model(torch.ones(1, 2)).sum().backward()
    optim.step()
    sched.step()
    state = {f"module.{name}": weight for name, weight in model.state_dict().items()}
    save_checkpoint(
        {"state_dict": state, "epoch": 3, "optimizer": optim.state_dict(), "scheduler": sched.state_dict()},
        str(tmp_path / "net"),
        is_best=True,
    )
    assert f"Checkpoint saved to {tmp_path}/net/model.pth.tar-3" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == [
        "checkpoint",
        "model-best.pth.tar",
        "model.pth.tar-3",
    ]
    assert (tmp_path / "net" / "checkpoint").read_text().split() == ["model.pth.tar-3"]
    assert set(load_checkpoint(str(tmp_path / "net" / "model-best.pth.tar"))["state_dict"]) == {"weight", "bias"}

    expected = torch.rand(3), np.random.rand(3), random.random()
    other, other_optim, other_sched = make_parts()
    assert resume_from_checkpoint(str(tmp_path / "net"), other, other_optim, other_sched) == 3
    assert torch.equal(other.weight, model.weight)
    assert other_optim.param_groups[0]["lr"] == 0.05 and other_sched.last_epoch == 1
    assert torch.equal(other_optim.state[other.weight]["momentum_buffer"], torch.ones(2, 2))
    assert torch.equal(torch.rand(3), expected[0]) and np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]
    with pytest.raises(UserError, match="does not fit this model"):
        resume_from_checkpoint(str(tmp_path / "net"), nn.Linear(2, 3))


class Payload:
    def __reduce__(self):
        return print, ("code in a checkpoint ran",)


def test_load_checkpoint_refuses(tmp_path, capsys):
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(str(tmp_path / "missing"))
    torch.save({"state_dict": Payload()}, tmp_path / "code")
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:2000])
    (tmp_path / "empty").touch()
    for name in ("code", "cut", "empty"):
        with pytest.raises(UserError, match="cannot read checkpoint"):
            load_checkpoint(str(tmp_path / name))
    assert "ran" not in capsys.readouterr().out
    with pytest.raises(pickle.UnpicklingError):  # so it is `weights_only` that refused it
        torch.load(tmp_path / "code", weights_only=True)


def test_pretrained_weights_that_fit_are_loaded(tmp_path, capsys):
    model = nn.Linear(2, 2)
    torch.save({"state_dict": {"module.weight": torch.ones(2, 2), "bias": torch.ones(3)}}, tmp_path / "w")
    load_pretrained_weights(model, str(tmp_path / "w"))
    assert torch.equal(model.weight, torch.ones(2, 2))
    assert "['bias']" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="none was loaded"):
        load_pretrained_weights(nn.Conv2d(1, 1, 1), str(tmp_path / "w"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained_weights(model, str(tmp_path / "w"))


class ConstantWarmup(torch.optim.lr_scheduler.LRScheduler):
    """As upstream's: it holds the schedule that follows it, which holds the optimizer."""

    def __init__(self, optimizer, successor):
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self):
        return [1e-5 for _ in self.base_lrs]


def old_checkpoint(path, epochs=3, **extra):
    """A checkpoint as upstream writes it: its scheduler's state holds pickled objects."""
    model, optim, _ = make_parts()
    model(torch.ones(1, 2)).sum().backward()
    optim.step()
    warmup = ConstantWarmup(optim, torch.optim.lr_scheduler.CosineAnnealingLR(optim, 10))
    schedule = {key: value for key, value in warmup.__dict__.items() if key != "optimizer"}
    state = {
        "state_dict": model.state_dict(),
        "epoch": epochs,
        "optimizer": defaultdict(dict, optim.state_dict()),
        "scheduler": {key: value for key, value in schedule.items() if not callable(value)},
        "val_result": np.float64(71.5),
        **extra,
    }
    path.parent.mkdir(exist_ok=True)
    torch.save(state, path)
    (path.parent / "checkpoint").write_text(f"{path.name}\n")
    return model, optim


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_pickled_scheduler_and_optimizer_loads(tmp_path, zipped, monkeypatch):
    if not zipped:  # how torch saved before 1.6
        save = torch.save
        monkeypatch.setattr(torch, "save", lambda state, path: save(state, path, _use_new_zipfile_serialization=False))
    path = tmp_path / "net" / "model.pth.tar-3"
    model, optim = old_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    checkpoint = load_checkpoint(str(path))
    assert checkpoint["epoch"] == 3 and checkpoint["val_result"] == 71.5
    assert torch.equal(checkpoint["state_dict"]["weight"], model.weight)
    assert not isinstance(checkpoint["scheduler"]["successor"], torch.optim.lr_scheduler.LRScheduler)

    other, other_optim, _ = make_parts()
    cfg = get_cfg_default().OPTIM
    cfg.merge_from_list(["LR_SCHEDULER", "cosine", "WARMUP_EPOCH", 1, "WARMUP_TYPE", "constant", "LR", 0.1])
    schedule = build_lr_scheduler(other_optim, cfg)
    assert resume_from_checkpoint(str(path.parent), other, other_optim, schedule) == 3
    assert torch.equal(other.weight, model.weight) and schedule.last_epoch == 3
    schedule.step()  # epoch 4 is the cosine's third
    assert other_optim.param_groups[0]["lr"] == pytest.approx(0.1 * (1 + math.cos(0.3 * math.pi)) / 2)


class System:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_a_command_is_refused(tmp_path, zipped):
    mark = tmp_path / "ran"
    attacks = [
        (os.system, f"touch {mark}"),
        (eval, f"open({str(mark)!r}, 'w')"),
        (getattr, "abc", "upper"),
        (torch.load, str(mark)),
        (torch.storage._load_from_bytes, b""),
        (importlib.import_module, "antigravity"),
    ]
    for function, *arguments in attacks:
        path = tmp_path / "net" / "attack"
        path.parent.mkdir(exist_ok=True)
        state = {"state_dict": {}, "scheduler": System(function, *arguments)}
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=f"{function.__name__}, which could run code"):
            load_checkpoint(str(path))
    assert not mark.exists()


GIB = 2**30


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", [(bytearray, 8 * GIB), (torch.Tensor, 2 * GIB), (bytes, 8 * GIB)])
def test_a_small_file_takes_little_memory(call, zipped, tmp_path):
    """With a scheduler of upstream's, which is read by the unpickler of old files, and without one."""
    for scheduler in (None, torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(nn.Linear(1, 1).parameters()))):
        state = {"state_dict": {}, "epoch": 1, "scheduler": scheduler, "x": System(*call)}
        torch.save(state, tmp_path / "bomb", _use_new_zipfile_serialization=zipped)
        start = time.monotonic()
        with pytest.raises(UserError, match="cannot read checkpoint .*bomb, which is damaged or unsafe") as error:
            load_checkpoint(str(tmp_path / "bomb"))
        assert len(str(error.value).splitlines()) == 1 and time.monotonic() - start < 2


def test_old_arrays_have_the_shape_of_their_content(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {}, "scheduler": values}, tmp_path / "array")
    assert np.array_equal(load_checkpoint(str(tmp_path / "array"))["scheduler"], values)
    call = System(np._core.multiarray._reconstruct, np.ndarray, (8 * GIB,), b"b")
    torch.save({"state_dict": {}, "scheduler": call}, tmp_path / "array")
    assert load_checkpoint(str(tmp_path / "array"))["scheduler"].size == 0


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "model.pth.tar-1")
    whole = (tmp_path / "model.pth.tar-1").read_bytes()
    most = most_bytes(model)
    assert most == 8 * 24 + 64 * 2**20 and load_checkpoint(str(tmp_path / "model.pth.tar-1"), most)["epoch"] == 1

    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(tmp_path / "packed", "w", 8) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name) if not name.endswith("data/0") else bytes(80 * 2**20))
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(8 * GIB)
    with zipfile.ZipFile(tmp_path / "large", "w") as archive:
        archive.writestr("a/data.pkl", bytes(65 * 2**20))
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("it is read"))
    for name, message in {
        "packed": "a file of 0.1 MiB that unpacks to 80.0 MiB",
        "sparse": "it has 8.0 GiB, but a checkpoint of this model has at most 64.0 MiB",
        "large": "it has 65.0 MiB, but a checkpoint of this model has at most 64.0 MiB",
    }.items():
        with pytest.raises(UserError, match=message):
            load_checkpoint(str(tmp_path / name), most)
    (tmp_path / "checkpoint").write_text("sparse\n")
    with pytest.raises(UserError, match="it has 8.0 GiB"):
        resume_from_checkpoint(str(tmp_path), model)

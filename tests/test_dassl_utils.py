import importlib
import math
import os
import pickle
import random
import sys
import warnings
from collections import defaultdict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler
from dassl.utils import (
    AverageMeter,
    Logger,
    MetricMeter,
    Registry,
    UserError,
    check_isfile,
    collect_env_info,
    count_num_param,
    import_modules,
    listdir_nohidden,
    load_checkpoint,
    load_pretrained_weights,
    mkdir_if_missing,
    read_image,
    read_json,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
    setup_logger,
    write_json,
)


def test_registry_refuses_duplicates_and_names_the_nearest():
    registry = Registry("SHAPE")

    @registry.register()
    class Circle:
        pass

    registry.register(UserError)
    assert registry.get("Circle") is Circle
    assert registry.registered_names() == ["Circle", "UserError"]
    with pytest.raises(KeyError, match='"Circle" was already registered in "SHAPE" registry'):
        registry.register(Circle)
    registry.register(Circle, force=True)
    with pytest.raises(KeyError, match="do you mean Circle.*available: Circle, UserError"):
        registry.get("circel")


def test_a_module_that_cannot_be_imported_is_left_out_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugins").mkdir()
    for name, code in {"__init__": "", "broken": "import nobody_has_this", "command": "1 / 0", "fine": ""}.items():
        (tmp_path / "plugins" / f"{name}.py").write_text(code)
    plugins = importlib.import_module("plugins")
    with pytest.warns(match="plugins/broken.py is left out: ModuleNotFoundError: No module named 'nobody_has_this'"):
        import_modules("plugins", plugins.__path__, leave_out=("command",))
    assert plugins.fine.__name__ == "plugins.fine"


def test_a_fallback_gives_way_before_and_after():
    registry = Registry("SHAPE")
    built_in, own = (type("Square", (), {}) for _ in range(2))
    for order in ((built_in, own), (own, built_in)):
        registry = Registry("SHAPE")
        for obj in order:
            registry.register(obj, fallback=obj is built_in)
        assert registry.get("Square") is own
        with pytest.raises(KeyError):  # and is gone: the name is taken for good
            registry.register(type("Square", (), {}))


def test_user_error_is_one_line_also_from_a_worker():
    text = f"Caught UserError in DataLoader worker 0.\nTraceback\n{UserError.__module__}.UserError: what: why\n"
    assert str(UserError(text)) == "what: why"


def test_logger_copies_to_file_and_leaves_the_console_open(tmp_path, capsys):
    console = sys.stdout
    setup_logger(str(tmp_path / "run"))
    try:
        print("first")
        assert isinstance(sys.stdout, Logger) and sys.stdout.isatty() is False
        assert sys.stdout.encoding == console.encoding
        assert (tmp_path / "run" / "log.txt").read_text() == "first\n"  # without a flush
        setup_logger(str(tmp_path / "run"))  # replaces the first and keeps its file
        print("second")
        sys.stdout.flush()
        assert sys.stdout.console is console
        logger = sys.stdout
    finally:
        sys.stdout = console
    logger.close()
    del logger
    print("third")
    assert capsys.readouterr().out == "first\nsecond\nthird\n"
    assert (tmp_path / "run" / "log.txt").read_text() == "first\n"
    (later,) = (tmp_path / "run").glob("log.txt-*")
    assert later.read_text() == "second\n"


def test_meters():
    meter = AverageMeter()
    meter.update(torch.tensor(1.0), n=3)
    meter.update(5.0)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (5.0, 2.0, 8.0, 4)
    ema = AverageMeter(ema=True)
    ema.update(10)
    assert ema.avg == pytest.approx(1.0)
    metrics = MetricMeter()
    metrics.update({"loss": 1, "acc": 50.0})
    metrics.update({"loss": 2})
    metrics.update(None)
    assert str(metrics) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError):
        metrics.update([1])


def test_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mkdir_if_missing("")
    write_json({"a": [1, "é"]}, "x.json")
    write_json({"a": 2}, "deep/er/x.json")
    assert read_json("x.json") == {"a": [1, "é"]} and read_json("deep/er/x.json") == {"a": 2}
    assert listdir_nohidden("deep/er") == ["x.json"]  # no temporary file is left
    for name in (".hidden", "b", "a"):
        (tmp_path / "deep" / name).touch()
    assert listdir_nohidden("deep", sort=True) == ["a", "b", "er"]
    assert check_isfile("x.json")
    with pytest.warns(UserWarning, match='No file found at "y.json"'):
        assert not check_isfile("y.json")


def test_unreadable_images_are_named(tmp_path):
    Image.new("L", (3, 2)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").mode == "RGB"
    (tmp_path / "cut.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.png", "text.png", "missing.png"):
        with pytest.raises(UserError, match=f"cannot read image .*{name}") as error:
            read_image(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1


def test_environment_is_described_without_using_random_numbers():
    set_random_seed(3)
    expected = torch.rand(2), np.random.rand(2)
    set_random_seed(3)
    assert f"torch: {torch.__version__.partition('+')[0]}" in collect_env_info()
    assert torch.equal(torch.rand(2), expected[0]) and np.array_equal(np.random.rand(2), expected[1])


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


def test_count_num_param():
    model = nn.Linear(3, 2)
    assert count_num_param(model) == count_num_param(params=model.parameters()) == 8
    assert count_num_param(params=[{"params": [model.bias]}]) == 2


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

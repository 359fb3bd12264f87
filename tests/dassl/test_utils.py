"""Registries, loggers, meters, files and images."""

import importlib
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

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
    mkdir_if_missing,
    read_image,
    read_json,
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
        for text in ("second", "at once"):
            setup_logger(str(tmp_path / "run"))  # replaces the one before and keeps its file
            print(text)
            sys.stdout.flush()
            assert sys.stdout.console is console
        logger = sys.stdout
    finally:
        sys.stdout = console
    logger.close()
    del logger
    print("third")
    assert capsys.readouterr().out == "first\nsecond\nat once\nthird\n"
    assert (tmp_path / "run" / "log.txt").read_text() == "first\n"
    later = [path.read_text() for path in sorted((tmp_path / "run").glob("log.txt-*"))]
    assert later == ["second\n", "at once\n"]


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


def test_count_num_param():
    model = nn.Linear(3, 2)
    assert count_num_param(model) == count_num_param(params=model.parameters()) == 8
    assert count_num_param(params=[{"params": [model.bias]}]) == 2

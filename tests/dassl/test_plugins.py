"""Plugins: a package adds a trainer by declaring it, and one that is broken or hidden stops nothing."""

import subprocess
import sys
import warnings

import pytest

from dassl import plugins
from dassl.engine import TRAINER_REGISTRY

TRAINER = """
from dassl.engine import TRAINER_REGISTRY, TrainerX

@TRAINER_REGISTRY.register()
class Foreign(TrainerX):
    NODE = "FOREIGN"
    RANGES = {"DEPTH": "[1, 3]"}

    @staticmethod
    def extend_cfg(cfg):
        cfg.TRAINER.FOREIGN = type(cfg)({"DEPTH": 2})
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Function (name, code) that lays out a package which declares itself as a plugin, as pip would install it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[dassl.plugins]\n{name} = {name}\n")
        plugins.load_plugins.cache_clear()

    yield make
    plugins.load_plugins.cache_clear()
    TRAINER_REGISTRY._objects.pop("Foreign", None)
    for name in ("someplugin", "brokenplugin"):
        sys.modules.pop(name, None)


def test_a_package_adds_a_trainer_by_declaring_it(install, tmp_path, python):
    install("someplugin", TRAINER)
    assert plugins.load_plugins() == {} and "Foreign" in TRAINER_REGISTRY.registered_names()
    arguments = ["--trainer", "Foreign", "--output-dir", str(tmp_path / "out"), "TRAINER.FOREIGN.DEPTH", "4"]
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([python, "train.py", *arguments], env=environment, capture_output=True, text=True)
    assert done.stderr == "error: config key TRAINER.FOREIGN.DEPTH must be in [1, 3], got 4\n" and done.returncode == 2


def test_a_plugin_that_cannot_be_imported_is_skipped_with_a_warning(install):
    install("brokenplugin", "import no_such_module")
    with pytest.warns(UserWarning, match="plugin brokenplugin is unavailable .brokenplugin: ModuleNotFoundError"):
        skipped = plugins.load_plugins()
    assert list(skipped) == ["brokenplugin"] and "SOTGLP" in TRAINER_REGISTRY.registered_names()


def test_a_plugin_that_is_left_out_is_not_imported(install):
    install("brokenplugin", "import no_such_module")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plugins.load_plugins(leave_out=("brokenplugin",)) == {}


def test_the_neighbour_of_dassl_comes_before_packages_of_its_name(tmp_path, monkeypatch, request):
    request.addfinalizer(lambda: sys.modules.pop("neighbour", None))
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home, other):
        (folder / "neighbour").mkdir(parents=True)
        (folder / "neighbour" / "__init__.py").write_text(f"FOLDER = {str(folder)!r}")
    monkeypatch.setattr(plugins, "HOME", str(home))
    monkeypatch.syspath_prepend(other)
    plugins.prefer_neighbour("neighbour")
    import neighbour

    assert neighbour.FOLDER == str(home)
    monkeypatch.setattr(plugins, "HOME", str(other))
    with pytest.raises(ImportError, match="neighbour is in use from "):
        plugins.prefer_neighbour("neighbour")

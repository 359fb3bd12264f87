"""The command `sotglp`: the scripts from any folder."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from PIL import Image

from scripts import __main__ as command

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_names_a_command_as_it_was_called(name, capsys):
    try:
        code = command.main([name, "--help"])
    except SystemExit as error:
        code = error.code
    first = capsys.readouterr().out.splitlines()[0]
    assert not code and f"sotglp {name} " in f"{first} " and first.startswith(command.summary(command.COMMANDS[name]))


def test_an_unknown_command_is_one_line(capsys):
    assert command.main(["trian"]) == 2
    assert 'error: unknown command "trian" (do you mean train' in capsys.readouterr().err


def test_pip_installs_the_command():
    (point,) = entry_points(group="console_scripts", name="sotglp")
    assert point.value == "sotglp_scripts.__main__:main" and command.main.__name__ == point.attr


def test_a_run_is_trained_in_another_folder(tmp_path, monkeypatch, capsys):
    for name, colour in {"red": (200, 30, 30), "blue": (30, 30, 200)}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (70, 70), (*colour[:2], colour[2] + i)).save(tmp_path / "pictures" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    files = ["--dataset-config-file", "configs/datasets/image_folder.yaml", "--backbone", "small"]
    words = ["train", "--trainer", "ZeroshotCLIP", "--eval-only", "--root", "pictures", "--output-dir", "out", *files]
    assert command.main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "out"}
    assert "NAME: small" in (tmp_path / "out" / "config.yaml").read_text()
    capsys.readouterr()
    assert command.main([*words, "--config-file", "no.yaml"]) == 2
    assert capsys.readouterr().err == "error: no config file at no.yaml\n"


def test_the_program_starts_in_another_folder(tmp_path):
    program = [sys.executable, str(ROOT / "scripts" / "__main__.py")]  # what pip installs as `sotglp` starts this file
    words = ["run", "SOT-GLP, with projection", "no_such_set", "16"]
    done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(
        "error: unknown data set no_such_set: take one of: caltech101"
    )


def test_names_of_trainers_and_data_sets_are_listed(capsys):
    assert command.main(["train", "--list"]) == 0
    lines = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if line}
    assert lines["SOTGLP"] == "configs/trainers/SOTGLP/default.yaml" and lines["ZeroshotCLIP"] == "ZeroshotCLIP"
    assert lines["ImageFolder"] == "configs/datasets/image_folder.yaml"
    assert all((ROOT / path).is_file() for path in lines.values() if path.startswith("configs/"))

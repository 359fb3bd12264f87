"""train.py from the command line. Most runs call main() here; a few start the program."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from conftest import COLOURS, Tiny, draw_squares
from processes import finish, wait_for

from dassl.utils import load_checkpoint
from train import main

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def arguments(tiny_values, tmp_path):
    """Command line of a tiny run: config files for most values, flags for the rest."""
    values = dict(tiny_values)
    flags = {flag: str(values.pop(key)) for flag, key in (("--root", "DATASET.ROOT"), ("--seed", "SEED"))}
    flags["--output-dir"] = values.pop("OUTPUT_DIR")
    flags["--trainer"] = values.pop("TRAINER.NAME")
    files = {"dataset": {}, "method": {}}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        node = files["dataset" if section == "DATASET" else "method"]
        for part in section.split("."):
            node = node.setdefault(part, {})
        node[name] = list(value) if isinstance(value, tuple) else value
    for name, tree in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    flags["--dataset-config-file"] = str(tmp_path / "dataset.yaml")
    flags["--config-file"] = str(tmp_path / "method.yaml")
    return [part for pair in flags.items() for part in pair]


def replaced(arguments, flag, value):
    """The arguments with another value of a flag."""
    arguments = list(arguments)
    arguments[arguments.index(flag) + 1] = str(value)
    return arguments


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def test_training_writes_its_files(arguments, tmp_path, capsys):
    assert main([*arguments, "OPTIM.MAX_EPOCH", "2", "DATASET.NUM_SHOTS", "6"]) == 0
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == [
        "config.yaml",
        "linear",
        "log.txt",
        "predictions.csv",
        "results.json",
        "tensorboard",
    ]
    results = read_results(run)
    metrics = results.pop("metrics")
    assert set(metrics) == {"accuracy", "error_rate", "macro_f1", "per_class_accuracy"}
    assert list(metrics["per_class_accuracy"]) == list(COLOURS)
    started, ended = (datetime.fromisoformat(results.pop(key)) for key in ("started", "ended"))
    parts, seconds = results.pop("seconds_of"), results.pop("seconds")
    assert set(parts) == {"loading", "training", "testing"} and min(parts.values()) > 0
    assert sum(parts.values()) <= (ended - started).total_seconds() + 0.01, "no second counts twice"
    assert 0 < parts["training"] + parts["testing"] <= seconds + 0.01
    assert results.pop("threads") == torch.get_num_threads()
    assert results.pop("command").startswith("python train.py --root ") and " cores, " in results.pop("machine")
    peak, split = results.pop("peak_gib"), results.pop("split_hash")
    assert 0.1 < peak["process"] < 100 and peak["gpu"] is None
    assert {part: len(digits) for part, digits in split.items()} == {"train": 16, "test": 16}
    versions = results.pop("versions")
    assert {"python", "torch", "torchvision", "open_clip"} <= set(versions)
    assert results.pop("git").keys() == {"commit", "dirty"} and len(results.pop("config_hash")) == 16
    assert results == {
        "train_images": dict.fromkeys(COLOURS, 6),
        "images": {"train": 24, "val": 16, "test": 24},
        "classnames": ["red", "green", "blue", "grey"],
        "dataset": "Squares",
        "shots": 6,
        "seed": 1,
        "protocol": "published",
        "learned_parameters": 4 * (3 * 8 * 8 + 1),
        "backbone_hash": None,
        "trainer": "Tiny",
        "backbone": "",
        "epochs": 2,
        "device": "cpu",
        "evaluated": None,
    }
    log = (run / "log.txt").read_text()
    assert log.replace("Finished training\n", "") == capsys.readouterr().out
    assert re.search(r"^trainer: Tiny$", log, re.M) and "NUM_SHOTS: 6" in log and "cpu: " in log
    # what the family's parse_test_res.py does
    after = log.split("\nFinish training\nFinished training\n")[1]
    assert float(re.search(r"\* accuracy: ([\.\deE+-]+)%", after)[1]) == round(metrics["accuracy"], 1)


def test_same_seed_same_results_and_the_saved_config_is_enough(arguments, tmp_path):
    assert main(arguments) == 0
    again = ["--config-file", str(tmp_path / "run" / "config.yaml"), "--output-dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert main(replaced(replaced(arguments, "--output-dir", tmp_path / "other"), "--seed", "0")) == 0
    assert read_results(tmp_path / "again")["metrics"] == read_results(tmp_path / "run")["metrics"]
    weights = [
        load_checkpoint(str(tmp_path / name / "linear" / "model.pth.tar-4"))["state_dict"]["2.weight"]
        for name in ("run", "again", "other")
    ]
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    assert read_results(tmp_path / "other")["seed"] == 0


def test_eval_only_gives_the_result_of_training(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    evaluation = replaced(arguments, "--output-dir", tmp_path / "eval")
    evaluation = replaced(evaluation, "--seed", 7)
    assert main([*evaluation, "--eval-only", "--model-dir", str(tmp_path / "run"), "--load-epoch", "4"]) == 0
    trained, evaluated = read_results(tmp_path / "run"), read_results(tmp_path / "eval")
    assert evaluated["metrics"] == trained["metrics"] and evaluated["epochs"] == 4
    capsys.readouterr()
    assert main([*evaluation, "--eval-only", "--model-dir", str(tmp_path / "run"), "--load-epoch", "9"]) == 2
    assert re.search(r"no checkpoint at .*model.pth.tar-9; saved epochs: 4$", capsys.readouterr().err)
    assert main([*evaluation, "--eval-only", "--model-dir", str(tmp_path / "run")]) == 0
    assert "its only epoch, 4, is loaded" in capsys.readouterr().out
    evaluated = read_results(tmp_path / "eval")
    assert evaluated["metrics"] == trained["metrics"] and evaluated["evaluated"]["epoch"] == 4
    shutil.copy(tmp_path / "run" / "linear" / "model.pth.tar-4", tmp_path / "run" / "linear" / "model.pth.tar-2")
    assert main([*evaluation, "--eval-only", "--model-dir", str(tmp_path / "run")]) == 2
    assert re.search(r"^error: no checkpoint at .*model-best.*; saved epochs: 2, 4$", capsys.readouterr().err)


def test_reproducing_a_run_reports_whether_its_results_are_the_same(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    path = tmp_path / "run" / "results.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # another order of sums
    assert main(["--reproduce", str(path)]) == 0
    assert torch.get_num_threads() == threads == read_results(tmp_path / "run" / "reproduced")["threads"]
    out = capsys.readouterr().out
    assert "No checkpoint found, train from scratch" in out
    assert "The same results." in out and re.search(r"^accuracy +\d+\.\d+ +\d+\.\d+ +0\.0000$", out, re.M)
    results = read_results(tmp_path / "run")
    assert read_results(tmp_path / "run" / "reproduced")["config_hash"] == results["config_hash"]
    results["metrics"]["accuracy"] -= 1
    path.write_text(json.dumps(results))
    assert main(["--reproduce", str(path)]) == 1
    out = capsys.readouterr().out
    assert "Other results" in out and "No checkpoint found, train from scratch" in out  # not what the first one left
    bad = {b"{": "is no results.json", b'{"seed": 1, "evaluated": null}': "is no results.json"}
    bad[b'{"seed": -1, "evaluated": null, "metrics": {}}'] = "a random seed"
    for content, message in bad.items():
        path.write_bytes(content)
        assert main(["--reproduce", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert main(["--reproduce", "nowhere.json"]) == 2


def test_later_files_win_then_flags_then_pairs(arguments, tmp_path):
    (tmp_path / "more.yaml").write_text("OPTIM:\n  LR: 0.5\n  MAX_EPOCH: 7\nSEED: 5\n")
    more = [*arguments, "--config-file", str(tmp_path / "more.yaml"), "--transforms", "normalize", "random_flip"]
    assert main([*more, "--no-train", "OPTIM.MAX_EPOCH", "8", "TRAINER.TINY.DROPOUT", "0.1"]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["OPTIM"]["LR"], config["OPTIM"]["MAX_EPOCH"], config["SEED"]) == (0.5, 8, 1)
    assert config["INPUT"]["TRANSFORMS"] == ["normalize", "random_flip"]
    assert config["TRAINER"]["TINY"] == {"DROPOUT": 0.1, "LOSS_FACTOR": 1.0}
    assert not (tmp_path / "run" / "results.json").exists()


MISTAKES = {
    "unknown key": (["OPTIM.LRR", "1."], "unknown config key OPTIM.LRR; the nearest are OPTIM.LR"),
    "wrong type": (["OPTIM.LR", "high"], "config key OPTIM.LR takes a value of type float, got 'high'"),
    "half a pair": (["OPTIM.LR"], "KEY VALUE pairs, got OPTIM.LR"),
    "flag after pairs": (["OPTIM.LR", "1.", "--seed", "2"], "unknown config key --seed"),
    "unknown flag": (["--sead", "3"], "unrecognized arguments: --sead"),
    "flag of a wrong type": (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
    "missing file": (["--config-file", "nowhere.yaml"], "no config file at nowhere.yaml"),
    "unknown trainer": (["--trainer", "Tin"], 'unknown trainer (TRAINER.NAME) "Tin" (do you mean Tiny?)'),
    "unknown data set": (["DATASET.NAME", "Squared"], '"Squared" (do you mean Squares?); available: '),
    "missing data": (["--root", "nowhere"], "No such file or directory: 'nowhere/squares/train/red'"),
    "missing ImageNet": (
        ["--root", "nowhere", "DATASET.NAME", "ImageNet"],
        "nowhere/imagenet/classnames.txt: it should hold",
    ),
    "too many shots": (
        ["DATASET.NUM_SHOTS", "10", "DATASET.FEW_IMAGES", "stop"],
        'NUM_SHOTS is 10, but class "red" has only 9',
    ),
    "unknown transform": (["--transforms", "flip"], 'unknown transform (INPUT.TRANSFORMS) "flip"'),
    "nowhere to resume": (["--resume", "nowhere"], "RESUME is nowhere, but there is no such folder"),
    "loss not finite": (["TRAINER.TINY.LOSS_FACTOR", "1e39"], "infinite or NaN at epoch 1, batch 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(arguments, mistake, capsys):
    extra, message = MISTAKES[mistake]
    assert main([*arguments, *extra]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert sys.stdout.isatty() is False  # the log is off again


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_stops_the_run(arguments, tmp_path, capsys, workers):
    draw_squares(tmp_path)
    broken = tmp_path / "squares" / "train" / "blue" / "3.png"
    broken.write_bytes(broken.read_bytes()[:100])
    arguments = replaced(arguments, "--root", tmp_path)
    assert main([*arguments, "DATALOADER.NUM_WORKERS", str(workers)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot read image {broken}: ")


def test_other_errors_of_training_keep_their_traceback(arguments, monkeypatch):
    def forward_backward(self, batch):
        raise ValueError("a fault of the program")

    monkeypatch.setattr(Tiny, "forward_backward", forward_backward)
    with pytest.raises(ValueError, match="a fault of the program"):
        main(arguments)


def test_interrupted_run_continues_unless_its_settings_changed(arguments, tmp_path, capsys, monkeypatch):
    def before_epoch(self):
        if self.epoch == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "before_epoch", before_epoch)
        stop = 0
        assert main([*arguments, "TRAIN.CHECKPOINT_FREQ", "1"]) == 130
        assert "the same command starts anew" in capsys.readouterr().err
        stop = 2
        assert main([*arguments, "TRAIN.CHECKPOINT_FREQ", "1"]) == 130
        assert capsys.readouterr().err == "interrupted: the same command continues from the last checkpoint\n"
    assert main([*arguments, "OPTIM.LR", "0.5"]) == 2
    assert "run holds a run with other settings (OPTIM.LR 0.02 -> 0.5)" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "2 epochs finished" in capsys.readouterr().out
    assert main(replaced(arguments, "--output-dir", tmp_path / "whole")) == 0
    assert read_results(tmp_path / "whole")["metrics"] == read_results(tmp_path / "run")["metrics"]


@pytest.fixture
def sandbox(tmp_path):
    """train.py with nothing but a trainer and a data set that a third party dropped into the folders."""
    shutil.copy(REPOSITORY / "train.py", tmp_path)
    (tmp_path / "dassl").symlink_to(REPOSITORY / "dassl")
    for folder in ("trainers", "datasets"):
        (tmp_path / folder).mkdir()
        shutil.copy(REPOSITORY / folder / "__init__.py", tmp_path / folder)
    plugin = (REPOSITORY / "tests" / "conftest.py").read_text().partition("\n@pytest.fixture")[0]
    reader, trainer = plugin.split("@TRAINER_REGISTRY.register()")
    imports = reader.split("COLOURS =")[0]
    (tmp_path / "trainers" / "mine.py").write_text(f"{imports}\n@TRAINER_REGISTRY.register(){trainer}")
    (tmp_path / "datasets" / "mine.py").write_text(reader)
    return tmp_path


def start(sandbox, arguments, python=sys.executable):
    command = [python, "train.py", *arguments]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(sandbox)}
    return subprocess.Popen(command, cwd=sandbox, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_program_finds_what_was_dropped_in(sandbox, arguments, python):
    fine = start(sandbox, arguments, python)
    bad = start(sandbox, [*arguments, "--trainer", "Tin", "--output-dir", "bad"], python)
    out, err = finish(fine)
    assert (fine.returncode, err) == (0, "")
    assert "=> result" in out
    assert main(replaced(arguments, "--output-dir", sandbox / "here")) == 0
    assert read_results(sandbox / "here")["metrics"] == read_results(sandbox / "run")["metrics"]
    out, err = finish(bad)
    assert bad.returncode == 2
    assert err == 'error: unknown trainer (TRAINER.NAME) "Tin" (do you mean Tiny?); available: Tiny\n'


@pytest.mark.slow
def test_program_can_be_interrupted(sandbox, arguments):
    endless = ["OPTIM.MAX_EPOCH", "100000", "TRAIN.CHECKPOINT_FREQ", "1"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # if ignored, as in a script's background, it stays so
    process = start(sandbox, [*arguments, *endless])
    saved = sandbox / "run" / "linear" / "checkpoint"
    wait_for(saved.exists, process)
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode == 130
    assert err == "interrupted: the same command continues from the last checkpoint\n"

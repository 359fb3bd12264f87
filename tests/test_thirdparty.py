"""Trainers of other repositories run here from their unmodified files, and ours run where only the toolbox is."""

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from processes import complete
from small_runs import assert_same

from dassl.engine import TRAINER_REGISTRY
from dassl.utils import load_checkpoint
from train import main

ROOT = Path(__file__).parents[1]
# file -> trainer, the model it registers, and the keys that its repository's train.py would have declared
TRAINERS = {
    "length_first": ("LengthFirst", "prompt_learner", {"LENGTHFIRST": {"N_CTX": 4, "PREC": "fp32"}}),
    "whole_clip": ("WholeCLIP", "VLPromptLearner", {"WHOLECLIP": {"N_TOKENS": 2}}),
    "own_scaler": ("OwnScaler", "clip_adapter", {"OWNSCALER": {"PREC": "amp"}}),
    "own_loop": ("OwnLoop", "adapter", {}),
    "class_buffers": ("ClassBuffers", "prompt_learner", {}),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*(GradScaler|autocast|CUDA is not available).*")


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory):
    """The clip module keeps a copy of the small CLIP in the user's cache: not in a real user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module", autouse=True)
def third_party_trainers():
    """Import the files; a drop into trainers/ is tested with one of them below."""
    for file in TRAINERS:
        spec = importlib.util.spec_from_file_location(f"thirdparty_{file}", ROOT / f"tests/thirdparty/{file}.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield
    for name, _, _ in TRAINERS.values():
        del TRAINER_REGISTRY._objects[name]


@pytest.fixture
def arguments(squares_root, tmp_path):
    """Function (file, name of the output folder) -> command line of a run of two epochs."""

    def make(file, output):
        name, _, node = TRAINERS[file]
        config = {
            "MODEL": {"BACKBONE": {"NAME": "small"}},
            "INPUT": {"SIZE": [64, 64], "TRANSFORMS": ["random_flip", "random_resized_crop"]},
            "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 12}},
            "OPTIM": {"NAME": "sgd", "LR": 0.02, "MAX_EPOCH": 2, "LR_SCHEDULER": "cosine", "WARMUP_EPOCH": 1},
            "TRAIN": {"CHECKPOINT_FREQ": 1},
            "DATASET": {"NAME": "Squares"},
            "TRAINER": {"NAME": name, **node},
        }
        path = tmp_path / f"{file}.yaml"
        path.write_text(yaml.safe_dump(config))
        flags = ["--root", squares_root, "--seed", 1, "--config-file", path, "--output-dir", tmp_path / output]
        return [*map(str, flags), "--allow-new-keys"]

    return make


def weights(folder, epoch):
    return load_checkpoint(str(folder / f"model.pth.tar-{epoch}"))["state_dict"]


@pytest.mark.parametrize("file", TRAINERS)
def test_a_trainer_by_the_familys_habits_trains_resumes_and_tests(file, arguments, tmp_path, capsys):
    assert main(arguments(file, "whole")) == 0
    metrics = json.loads((tmp_path / "whole" / "results.json").read_text())["metrics"]
    model = TRAINERS[file][1]

    # as if it had been broken off after the first epoch
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    (tmp_path / "broken" / model / "model.pth.tar-2").unlink()
    (tmp_path / "broken" / model / "checkpoint").write_text("model.pth.tar-1\n")
    assert main(arguments(file, "broken")) == 0
    assert json.loads((tmp_path / "broken" / "results.json").read_text())["metrics"] == metrics
    first, whole, resumed = (
        weights(tmp_path / run / model, epoch) for run, epoch in (("whole", 1), ("whole", 2), ("broken", 2))
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], first[name]) for name in whole)

    evaluation = ["--eval-only", "--model-dir", str(tmp_path / "whole"), "--load-epoch", "2"]
    assert main([*arguments(file, "eval"), *evaluation]) == 0
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["metrics"] == metrics
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("file", [file for file in TRAINERS if file != "own_loop"])
def test_it_resumes_within_an_epoch_bit_for_bit(file, arguments, tmp_path, monkeypatch):
    assert main(arguments(file, "whole")) == 0
    name, model, _ = TRAINERS[file]
    trainer, often = TRAINER_REGISTRY.get(name), ["TRAIN.CHECKPOINT_MINUTES", "1e-9"]

    def crash(self, *args):
        if (self.epoch, self.batch_idx) == (1, 1):
            raise RuntimeError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "report_step", crash)
        with pytest.raises(RuntimeError, match="broken off"):
            main([*arguments(file, "broken"), *often])
    assert (tmp_path / "broken" / model / "checkpoint").read_text().startswith("model.pth.tar-1-1\n")
    assert main([*arguments(file, "broken"), *often]) == 0
    whole, resumed = (load_checkpoint(str(tmp_path / run / model / "model.pth.tar-2")) for run in ("whole", "broken"))
    assert_same(resumed, whole)


def test_weights_learned_on_some_classes_serve_others(arguments, tmp_path):
    assert main([*arguments("class_buffers", "base"), "DATASET.SUBSAMPLE_CLASSES", "base"]) == 0
    evaluation = ["--eval-only", "--model-dir", str(tmp_path / "base"), "--load-epoch", "2"]
    new = ["DATASET.SUBSAMPLE_CLASSES", "new"]
    assert main([*arguments("class_buffers", "new"), *evaluation, *new]) == 0
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    assert set(results["metrics"]["per_class_accuracy"]) == {"blue", "grey"}


def test_new_keys_must_be_asked_for_and_belong_to_a_trainer(arguments, capsys):
    flags = arguments("length_first", "run")
    assert main([flag for flag in flags if flag != "--allow-new-keys"]) == 2
    assert "unknown config key TRAINER.LENGTHFIRST" in capsys.readouterr().err
    for key in ("OPTIM.LEARNING_RATE", "DATALOADER.TRAIN_X.SIZE", "TRAINER.NAMES"):
        assert main([*flags, key, "1"]) == 2
        assert f"unknown config key {key}" in capsys.readouterr().err


def link(folder, *names):
    for name in names:
        (folder / name).symlink_to(ROOT / name)


@pytest.mark.slow
def test_a_file_dropped_into_trainers_is_found_and_a_broken_one_left_out(arguments, run_program, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "trainers", checkout / "trainers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/thirdparty/length_first.py", checkout / "trainers")
    (checkout / "trainers" / "broken.py").write_text("import a_package_that_nobody_has")
    link(checkout, "dassl", "clip", "sotglp", "datasets")
    shutil.copy(ROOT / "train.py", checkout)  # not linked: Python starts in the folder of the real file
    flags = [*arguments("length_first", "run"), "--root", str(tmp_path / "data"), "DATASET.NAME", "Emoji"]
    flags += ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1"]
    ran = run_program(["train.py", *flags], checkout)
    assert "trainers/broken.py is left out: ModuleNotFoundError: No module named 'a_package_that_" in ran.stderr
    assert (tmp_path / "run" / "prompt_learner" / "model.pth.tar-1").is_file()

    seen = run_program(["-m", "dassl.doctor", "--root", str(tmp_path / "data")], checkout).stdout
    assert re.search(r"^third-party trainers +LengthFirst .trainers/length_first.py.$", seen, re.M)
    assert re.search(r"^data sets in \S+ +Emoji$", seen, re.M) and "broken.py is left out" in seen
    assert len(seen.splitlines()) < 40


@pytest.fixture
def run_program(python):
    """Function (arguments of python, folder, variables) -> a program that has succeeded."""

    def run(arguments, folder, **environment):
        ran = complete([python, *arguments], cwd=folder, env={**os.environ, **environment})
        assert ran.returncode == 0, ran.stderr
        return ran

    return run


def parsed_accuracy(log, end_signal):
    """The accuracy that the family's parse_test_res.py reads: the last one after the line of the end signal."""
    lines = log.splitlines()
    after = lines[lines.index(end_signal) :]
    return [float(match[1]) for line in after if (match := re.search(r"\* accuracy: ([\.\deE+-]+)%", line))][-1]


@pytest.mark.slow
def test_a_whole_repository_runs_on_the_toolbox(squares_root, run_program, tmp_path):
    """Its own train.py, trainers, readers and clip; of this checkout only dassl, found first."""
    repository, packages = tmp_path / "repository", tmp_path / "packages"
    shutil.copytree(ROOT / "tests/thirdparty/repository", repository, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/thirdparty/length_first.py", repository / "trainers")
    shutil.copytree(ROOT / "clip", repository / "clip", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(squares_root / "squares", tmp_path / "data" / "squares")
    packages.mkdir()
    link(packages, "dassl")

    def run(output, *arguments, seed="1"):
        flags = {
            "--root": tmp_path / "data",
            "--seed": seed,
            "--trainer": "LengthFirst",
            "--config-file": "configs/vit_ep2.yaml",
            "--output-dir": tmp_path / output,
        }
        flags = [str(part) for pair in flags.items() for part in pair]
        options = ["DATASET.NAME", "FashionMNIST", "TRAINER.LENGTHFIRST.PREC", "fp32", "DATASET.NUM_SHOTS", "3"]
        run_program(["train.py", *flags, *arguments, *options], repository, PYTHONPATH=str(packages))
        return [path.read_text() for path in sorted((tmp_path / output).glob("log.txt*"))]

    (log,) = run("seed1")
    accuracies = {parsed_accuracy(log, signal) for signal in ("=> result", "Finished training", "Finish training")}
    assert len(accuracies) == 1
    assert re.search(
        r"^epoch \[1/2\] batch \[2/3\] time \d\.\d{3} \(\d\.\d{3}\) data \d\.\d{3} \(\d\.\d{3}\) "
        r"loss \d+\.\d{4} \(\d+\.\d{4}\) acc \d+\.\d{4} \(\d+\.\d{4}\) lr 1\.0000e-05 eta \d:\d\d:\d\d$",
        log,
        re.M,
    )
    assert "Deploy the model with the best val performance" in log
    folder = tmp_path / "seed1" / "prompt_learner"
    assert {path.name for path in folder.iterdir()} == {"checkpoint", "model.pth.tar-2", "model-best.pth.tar"}
    checkpoint = load_checkpoint(str(folder / "model.pth.tar-2"))
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} <= set(checkpoint)
    assert {"ctx", "token_prefix", "token_suffix"} == set(checkpoint["state_dict"]) and checkpoint["epoch"] == 2

    logs = run("seed1", "--eval-only", "--model-dir", str(tmp_path / "seed1"))
    assert len(logs) == 2 and parsed_accuracy(logs[1], "=> result") == accuracies.pop()
    assert "Loading preprocessed few-shot data" in logs[1]
    logs = run("seed1")  # all epochs are finished: it resumes and tests
    assert "2 epochs finished" in logs[2] and "Finished training" in logs[2]


OTHER_TRAIN = """
import sys
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger
import readers
import trainers.{file}
cfg = get_cfg_default()
trainers.{file}.{name}.extend_cfg(cfg)
cfg.merge_from_file(sys.argv[1])
set_random_seed(1)
setup_logger(cfg.OUTPUT_DIR)
build_trainer(cfg).train()
assert not {{"datasets", "scripts", "clip", "train"}} & set(sys.modules), "something of the checkout was imported"
"""
OTHER_READER = """
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

@DATASET_REGISTRY.register()
class FashionMNIST(DatasetBase):  # the name of one of ours
    def __init__(self, cfg):
        root = f"{cfg.DATASET.ROOT}/squares"
        items = [[Datum(f"{root}/{split}/{name}/{i}.png", label, classname=name)
                  for label, name in enumerate(("red", "green")) for i in range(3)] for split in ("train", "test")]
        super().__init__(train_x=items[0], test=items[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "node"), [("sotglp", "SOTGLP", {}), ("coop", "CoOp", {"COOP": {"PREC": "fp32"}})]
)
def test_ours_run_in_another_repository(file, name, node, squares_root, run_program, tmp_path):
    """Another repository: its own train.py and readers, our trainer's file, and only dassl and sotglp on the path."""
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "__init__.py").touch()
    shutil.copy(ROOT / "trainers" / f"{file}.py", tmp_path / "trainers")
    (tmp_path / "train.py").write_text(OTHER_TRAIN.format(file=file, name=name))
    (tmp_path / "readers.py").write_text(OTHER_READER)
    packages = tmp_path / "packages"
    packages.mkdir()
    link(packages, "dassl", "sotglp")
    config = {
        "OUTPUT_DIR": str(tmp_path / "run"),
        "MODEL": {"BACKBONE": {"NAME": "small"}},
        "INPUT": {
            "SIZE": [64, 64],
            "TRANSFORMS": ["normalize"],
            "PIXEL_MEAN": [0.48145466, 0.4578275, 0.40821073],
            "PIXEL_STD": [0.26862954, 0.26130258, 0.27577711],
        },
        "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 6}},
        "OPTIM": {"NAME": "sgd", "MAX_EPOCH": 1, "LR_SCHEDULER": "cosine"},
        "DATASET": {"NAME": "FashionMNIST", "ROOT": str(squares_root)},
        "TRAINER": {"NAME": name, **node},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run_program(["train.py", "config.yaml"], tmp_path, PYTHONPATH=str(packages))
    assert "* accuracy:" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "prompt_learner" / "model.pth.tar-1").is_file()

"""A repository with many habits of the family at once runs unmodified: `tests/thirdparty/habits`.

Its CLIP is its own and in half precision. It registers three models, has an evaluator, a data manager with one more
loader and worker processes, adds keys in all nodes and in none, merges quoted values, keeps the best model on
validation images, and trains and tests on halves of the classes.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import complete, wait_for
from small_runs import assert_same

from dassl.utils import load_checkpoint

ROOT = Path(__file__).parents[1]
MODELS = ("prompt_learner", "adapter", "clip")
# Files whose appearance is when a run is killed. The checkpoints of the other models may not be written yet.
MOMENTS = ("prompt_learner/model.pth.tar-1", "clip/model-best.pth.tar", "clip/model.pth.tar-2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy of the repository, beside a folder that holds dassl only."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "tests/thirdparty/habits", folder / "habits", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "packages").mkdir()
    (folder / "packages" / "dassl").symlink_to(ROOT / "dassl")
    return folder / "habits"


@pytest.fixture(scope="module")
def command(repository, squares_root):
    """Function (script, classes, folder, pairs) -> the command of a script and how to start it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(repository.parent / "packages")}

    def make(script, classes, folder, *pairs):
        words = ["bash", f"scripts/{script}.sh", squares_root, "1", classes, folder, *pairs]
        return [*map(str, words)], {"cwd": repository, "env": environment}

    return make


@pytest.fixture(scope="module")
def run(command, python):
    """Function (script, classes, folder, pairs) -> the log of a script that ran to its end."""

    def run(*arguments):
        words, how = command(*arguments)
        how["env"] = {**how["env"], "PATH": f"{python.parent}:{how['env']['PATH']}"}
        ran = complete(words, **how)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder of a run on all classes that was never broken off."""
    folder = tmp_path_factory.mktemp("whole")
    run("base2new_train", "all", folder)
    return folder


def results(log):
    """The last accuracy and the last line of the repository's evaluator, as scripts that parse the log read them."""
    found = (re.findall(rf"^\* {name}: ([\d.]+)%$", log, re.M)[-1] for name in ("accuracy", "top2"))
    return tuple(map(float, found))


def test_it_trains_on_one_half_of_the_classes_and_tests_on_the_other(run, tmp_path):
    log = run("base2new_train", "base", tmp_path)
    for value in ("CTX_INIT: a photo of a", "WARMUP_CONS_LR: 0.001", "SIZE: (32, 32)", "TABLE: base&1", "MODAL: base"):
        assert f" {value}" in log
    assert "Deploy the model with the best val performance" in log and "* Using custom transform for training" in log
    assert re.search(r"# classes +2\n.*# train_x +8\n.*# val +8\n.*# test +12\n", log, re.S)
    for name in MODELS:
        names = {"checkpoint", "model-best.pth.tar", *(f"model.pth.tar-{epoch}" for epoch in (1, 2, 3))}
        assert {path.name for path in (tmp_path / name).iterdir()} == names
    weights = load_checkpoint(str(tmp_path / "adapter" / "model.pth.tar-3"))["state_dict"]
    assert weights["fc.1.weight"].dtype == torch.float16 and weights["fc.1.weight"].any()

    # the trained model meets other classes by --eval-only, or by the training command in the same folder
    new = run("base2new_test", "new", tmp_path)
    assert re.search(r"# classes +2\n", new) and "Loading weights to clip from " in new and results(new)[1] == 100
    best = run("base2new_test", "base", tmp_path, "MODEL.INIT_WEIGHTS", "", "TEST.SPLIT", "val")
    assert "Evaluate on the *val* set" in best and results(best)[0] > 50
    again = run("base2new_train", "new", tmp_path)
    assert "3 epochs finished" in again and "epoch [" not in again and results(again)[1] == 100


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_resumes_as_if_unbroken_bit_for_bit(moment, whole, command, run, tmp_path):
    words, how = command("base2new_train", "all", tmp_path)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, start_new_session=True, text=True, **streams, **how)
    wait_for((tmp_path / moment).exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "clip" / "model.pth.tar-3").exists()
    log = run("base2new_train", "all", tmp_path)
    assert "epochs finished" in log or moment != MOMENTS[-1]  # else the first ones may be incomplete
    for name in MODELS:
        for file in ("model.pth.tar-3", "model-best.pth.tar"):
            assert_same(*(load_checkpoint(str(run_folder / name / file)) for run_folder in (tmp_path, whole)))
    assert results(log) == results((whole / "log.txt").read_text())

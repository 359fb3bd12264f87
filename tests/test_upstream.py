"""Our trainers in a checkout of upstream Dassl's family, with `upstream/standin.py` as its `dassl`."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from processes import complete

import trainers
from dassl.config import flatten, read_flat
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import load_checkpoint

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "foreign-trainers.md").read_text(encoding="utf-8")
SECTION = re.search(r"^## Our trainers elsewhere\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)[1]
TRAINS, TESTS = "trains, resumes and tests", "tests; nothing is trained"
TABLE = {  # {(trainer, its module and what that imports): what the page says of it}
    (name, *re.findall(r"trainers/(\w+).py", files)): outcome
    for names, files, outcome in re.findall(r"^\| (`.*?) \| (`trainers/.*?`) \| (.*?) \|$", SECTION, re.MULTILINE)
    for name in re.findall(r"`(\w+)`", names)
}
SMALL = [
    *("MODEL.BACKBONE.NAME", "small", "INPUT.SIZE", "(64, 64)", "DATASET.NAME", "Squares", "DATASET.NUM_SHOTS", "3"),
    *("DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "6", "TRAIN.CHECKPOINT_FREQ", "1"),
]
OPTIONS = {  # the small CLIP has fewer blocks than the defaults count on
    "MaPLe": ["TRAINER.MAPLE.PROMPT_DEPTH", "3"],
    "PromptSRC": ["TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", "3", "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "3"],
    "TCP": ["TRAINER.TCP.BLOCK", "3"],
}
RUNS = {  # {output: (flags, options)}, one after the other in one process, which saves the imports
    "run": ([], ["OPTIM.MAX_EPOCH", "2"]),
    "test": (["--eval-only", "--model-dir", "run", "--load-epoch", "2"], []),
    "more": (["--resume", "run"], ["OPTIM.MAX_EPOCH", "3", "TEST.FINAL_MODEL", "best_val"]),
    "best": (["--eval-only", "--model-dir", "more"], []),
}


def block(language):
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    return text


@pytest.fixture
def checkout(tmp_path):
    """A checkout of upstream's family: `dassl`, readers and no trainers."""
    folder = tmp_path / "its-checkout"
    for name in ("dassl", "trainers", "datasets"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    shutil.copy(ROOT / "tests/upstream/standin.py", folder / "dassl" / "__init__.py")
    shutil.copy(ROOT / "tests/data/dassl_signatures.json", folder / "dassl" / "signatures.json")
    shutil.copy(ROOT / "tests/upstream/squares.py", folder / "datasets")
    for script in ("lacks.py", "runs.py", "standin_parts.py", "standin_trainers.py"):
        shutil.copy(ROOT / "tests/upstream" / script, folder)
    shutil.copytree(ROOT / "dassl", folder / "beneath", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (folder / "beneath").rglob("*.py"):
        file.write_text(re.sub(r"\bdassl\b", "beneath", file.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def bring(checkout, name, module, *imported_by_it):
    """Do for a trainer what the page does for SOTGLP."""
    for other in imported_by_it:
        shutil.copy(ROOT / "trainers" / f"{other}.py", checkout / "trainers")

    def of_trainer(text):
        text = text.replace("trainers/sotglp.py", f"trainers/{module}.py")
        return text.replace("trainers.sotglp", f"trainers.{module}").replace("SOTGLP", name)

    lines = of_trainer(block("bash")).replace("/path/to/this/checkout", str(ROOT)).splitlines()
    script = "\n".join(line for line in lines if not line.startswith("pip "))  # they are installed here
    subprocess.run(["bash", "-e", "-c", script], cwd=checkout.parent, check=True)
    imported, called = (line for line in of_trainer(block("python")).splitlines() if line)
    text = (ROOT / "tests/upstream/train.py").read_text(encoding="utf-8")
    text = text.replace("# the trainer's import", imported).replace("# the trainer's keys", called)
    (checkout / "train.py").write_text(text, encoding="utf-8")
    (checkout / "method.yaml").write_text(block("yaml"), encoding="utf-8")


@pytest.fixture
def run(checkout, python):
    """Function (a script and its arguments) -> its process, which has ended."""
    return lambda *words: complete([python, *words], cwd=checkout)


def command_line(name, root, output):
    flags, options = RUNS[output]
    common = ["--root", root, "--trainer", name, "--config-file", "method.yaml", "--output-dir", output, "--seed", "1"]
    return [*common, *flags, *SMALL, *OPTIONS.get(name, []), *options]


def test_what_upstream_lacks_does_not_exist_in_the_stand_in(run):
    ran = run("lacks.py")
    assert ran.returncode == 0, ran.stderr


def test_the_table_has_all_of_our_trainers():
    ours = {name: TRAINER_REGISTRY.get(name).__module__ for name in TRAINER_REGISTRY.registered_names()}
    ours = {(name, module.removeprefix("trainers.")) for name, module in ours.items()}
    assert {(name, module) for name, module in ours if module in trainers.OURS} == {key[:2] for key in TABLE}


def test_the_pages_file_is_the_recipe():
    files = ("backbones/vit_b16.yaml", "trainers/SOTGLP/default.yaml")
    ours = {key: value for file in files for key, value in read_flat(ROOT / "configs" / file).items()}
    assert flatten(yaml.safe_load(block("yaml"))).items() <= ours.items()


def test_training_is_the_same_as_on_our_toolbox(run, checkout, squares_root):
    bring(checkout, "SOTGLP", "sotglp")
    learned = []
    for output in ("theirs", "ours"):
        ran = run("train.py", *command_line("SOTGLP", str(squares_root), "run"), "OUTPUT_DIR", output)
        assert ran.returncode == 0, ran.stderr
        learned.append(load_checkpoint(str(checkout / output / "prompt_learner" / "model.pth.tar-2"))["state_dict"])
        if output == "theirs":
            (checkout / "dassl").rename(checkout / "stand-in")
            (checkout / "dassl").symlink_to(ROOT / "dassl")
    theirs, ours = learned
    assert all(torch.equal(theirs[name], ours[name]) for name in ours) and theirs.keys() == ours.keys()


@pytest.mark.parametrize(
    "key",
    [pytest.param(key, marks=[] if key[0] == "SOTGLP" else pytest.mark.slow, id=key[0]) for key in TABLE],
)
def test_a_trainer_does_in_upstreams_checkout_what_the_table_says(key, run, checkout, squares_root):
    bring(checkout, *key)
    lines = [command_line(key[0], str(squares_root), output) for output in RUNS]
    ran = run("runs.py", json.dumps(lines))
    assert ran.returncode == 0, ran.stderr
    accuracies = dict(zip(RUNS, of_tests(ran.stdout), strict=True))
    assert accuracies["run"] == accuracies["test"] and accuracies["more"] == accuracies["best"]
    folder = checkout / "more" / "prompt_learner"
    assert TABLE[key] == (TRAINS if folder.exists() else TESTS)
    if folder.exists():
        assert {path.name for path in folder.glob("model.*")} == {"model.pth.tar-3"}  # after two of `run`
        assert (folder / "model-best.pth.tar").is_file()


def of_tests(log):
    """The accuracies of a log's evaluations on the test set."""
    return [part.partition("* accuracy: ")[2].split("%")[0] for part in log.split("Evaluate on the *test* set")[1:]]

"""Bad configurations, files and images: each ends in one line that names what is wrong, and exit code 2."""

import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from conftest import draw_squares

import sotglp
from dassl.config import flatten, get_cfg_default
from dassl.config.checks import is_inside
from dassl.config.merge import SWITCH
from dassl.utils import load_checkpoint
from sotglp.prompts import encode_names, fit_name
from train import main
from trainers.sotglp import SOTGLP

IMPOSSIBLE = {
    "INPUT.EXIF": ["yes please"],
    "INPUT.BACKGROUND": ["no colour"],
    "OPTIM.LR": [-1.0, "nan", "inf"],
    "OPTIM.MOMENTUM": [1.0, -0.1],
    "OPTIM.WEIGHT_DECAY": [-1.0],
    "OPTIM.EPS": [-1e-8],
    "OPTIM.ADAM_BETA2": [1.0, 2.0],
    "OPTIM.MAX_EPOCH": [-3],
    "OPTIM.STEPSIZE": ["('a',)", "(1.5,)"],
    "DATASET.SUBSAMPLE_CLASSES": ["old"],
    "DATALOADER.TRAIN_X.BATCH_SIZE": [0, -1],
    "DATALOADER.TEST.BATCH_SIZE": [0],
    "DATALOADER.NUM_WORKERS": [-1],
    "DATALOADER.K_TRANSFORMS": [0],
    "DATALOADER.ON_ERROR": ["go"],
    "TRAIN.PRINT_FREQ": [0],
    "TEST.SPLIT": ["train"],
    "INPUT.SIZE": ["(0, 8)", "(8,)", "('a', 8)", "(8, 8, 8)"],
    "INPUT.RRCROP_SCALE": ["(0.9, 0.1)", "(0.0, 0.0)", "(-0.1, 1.0)", "(0.1, 2.0)", "(1.0,)"],
    "INPUT.PIXEL_STD": ["[0.0, 1.0, 1.0]", "[1.0]"],
    "INPUT.RGS_P": [1.5, -0.1],
    "INPUT.GB_K": [4],
    "INPUT.CACHE_VIEWS": [-1, 2],
    "INPUT.LONG_NAMES": ["cut"],
    "TRAINER.MEMORY_BUDGET": [-1.0],
    "SEED": [2**32],
}
UNKNOWN = {
    "TRAINER.NAME": "Tinyy",
    "DATASET.NAME": "Circles",
    "TEST.EVALUATOR": "Guess",
    "OPTIM.NAME": "sdg",
    "OPTIM.LR_SCHEDULER": "linear",
    "OPTIM.WARMUP_TYPE": "slow",
    "DATALOADER.TRAIN_X.SAMPLER": "Best",
    "DATALOADER.TEST.SAMPLER": "Best",
    "INPUT.TRANSFORMS": "('flip',)",
}
YAML = {
    "binary": b"\x00\xff\xfe\x80",
    "tabs": b"OPTIM:\n\tLR: 1.0\n",
    "list": b"- 1\n- 2\n",
    "text": b"hello",
    "unclosed": b"OPTIM: {LR: 1.0",
    "python": b"OPTIM: !!python/object/apply:os.system ['true']",
    "latin": "OUTPUT_DIR: f\xfcr".encode("latin-1"),
    "number as a key": b"1: 2",
    "section as a value": b"OPTIM: 3",
    "value as a section": b"OPTIM: {LR: {A: 1}}",
    "bomb": b"a0: &a0 {x: 1, y: 1}\n"
    + b"".join(b"a%d: &a%d {x: *a%d, y: *a%d}\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
    "deep": b"a: " + b"[" * 3000,
}
SMALL_CLIP = {
    "INPUT.SIZE": (64, 64),
    "INPUT.PIXEL_MEAN": list(sotglp.interface.PIXEL_MEAN),
    "INPUT.PIXEL_STD": list(sotglp.interface.PIXEL_STD),
}
DAMAGE = ("cut", "flipped", "empty", "text", "foreign", "pickle", "list", "bare", "run", "run as pickle")


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def damage(path, how, mark, draw):
    """Make a checkpoint a bad one."""
    content = bytearray(path.read_bytes()) if path.exists() else bytearray(b"x" * 2000)
    if how == "cut":
        path.write_bytes(content[: draw.randrange(1, len(content) - 1)])
    elif how == "flipped":
        for _ in range(20):
            content[draw.randrange(len(content) // 4, 3 * len(content) // 4)] ^= 0xFF
        path.write_bytes(content)
    elif how in ("empty", "text"):
        path.write_bytes(b"" if how == "empty" else b"no checkpoint\n")
    elif how == "foreign":
        torch.save({"state_dict": {"w": torch.zeros(3)}, "epoch": 1, "optimizer": None, "scheduler": None}, path)
    elif how == "list":
        torch.save([1, 2], path)
    elif how == "bare":
        torch.save({"a": 1}, path)
    elif how == "run":
        torch.save({"state_dict": Runs(mark), "epoch": 1}, path)
    else:
        path.write_bytes(pickle.dumps({"a": 1} if how == "pickle" else Runs(mark)))


@pytest.fixture
def refused(tiny_values, tmp_path, capsys):
    """Function (other values, flags) -> the one line of a run that is refused."""

    def run(values=(), flags=()):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        pairs = {**tiny_values, **dict(values)}
        code = main([*flags, *(part for key, value in pairs.items() for part in (key, str(value)))])
        lines = capsys.readouterr().err.splitlines()
        lines = [line for line in lines if "Warning" not in line and "warnings.warn" not in line]
        assert code == 2, (values, flags, code)
        assert len(lines) == 1 and lines[0].startswith("error: "), (values, flags, lines)
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"OPTIM.LR_SCHEDULER": "single_step", "OPTIM.STEPSIZE": "()"}, "OPTIM.STEPSIZE"),
        ({"DATALOADER.TRAIN_X.SAMPLER": "RandomClassSampler", "DATALOADER.TRAIN_X.N_INS": 0}, "TRAIN_X.N_INS"),
        ({"OPTIM.NAME": "sgd", "OPTIM.SGD_NESTEROV": True, "OPTIM.MOMENTUM": 0.0}, "OPTIM.SGD_NESTEROV"),
    ],
)
def test_values_that_another_key_makes_impossible_are_refused(values, key, refused):
    assert key in refused(values)


def run_of(values):
    """Run train.py with values; return its log."""
    assert main([part for key, value in values.items() for part in (key, str(value))]) == 0
    return (Path(values["OUTPUT_DIR"]) / "log.txt").read_text()


def test_values_with_a_meaning_in_upstreams_code_are_taken(tiny_values, tmp_path):
    """Scripts of other repositories use them; a key that no chosen part reads may have any value."""
    meaningful = {
        "SEED": -1,
        "DATASET.NUM_SHOTS": 0,  # all images
        "DATALOADER.TRAIN_X.N_INS": 0,
        "INPUT.RRCROP_SCALE": (0.0, 1.0),
        "DATALOADER.REDUCED_JPEG": True,
        "OPTIM.NAME": "adam",
        "OPTIM.SGD_NESTEROV": True,
        "OPTIM.MOMENTUM": 0.0,
        "OPTIM.LR": 0.0,
        "OPTIM.LR_SCHEDULER": "single_step",
        "OPTIM.STEPSIZE": (-5,),  # MAX_EPOCH
        "OPTIM.WARMUP_EPOCH": -2,  # none
        "OPTIM.MAX_EPOCH": 3,
        "TRAIN.CHECKPOINT_FREQ": -1,  # after the last epoch only
        "TRAIN.CHECKPOINT_MINUTES": -1.0,
        "TRAIN.PRINT_FREQ": -1,  # each batch
        "TEST.FINAL_MODEL": "last_val",  # the last epoch
    }
    log = run_of({**tiny_values, **meaningful})
    assert "# train_x  36" in log and log.count("epoch [3/3] batch [") == 3
    files = {path.name for path in (tmp_path / "run" / "linear").iterdir()}
    assert files == {"checkpoint", "model.pth.tar-3"}


def test_no_epochs_test_the_untrained_model(tiny_values):
    log = run_of({**tiny_values, "OPTIM.MAX_EPOCH": 0})
    assert "* accuracy: " in log and "epoch [" not in log


@pytest.mark.parametrize("key", [*IMPOSSIBLE, *UNKNOWN])
def test_impossible_values_are_refused(key, refused):
    for value in IMPOSSIBLE.get(key, [UNKNOWN.get(key)]):
        line = refused({key: value})
        assert key in line or key.endswith(".SAMPLER") and "(DATALOADER.*.SAMPLER)" in line


def test_wrong_types_are_refused(refused):
    draw = random.Random(0)
    for key, old in flatten(get_cfg_default()).items():
        wrong = [value for value in ("{'a': 1}", "(1,)", "'x'", "1.5", "True") if type(eval(value)) is not type(old)]
        if isinstance(old, (list, tuple)):
            wrong = ["{'a': 1}", "'x'", "7"]
        elif isinstance(old, float):
            wrong = ["'x'", "(1,)"]
        elif old in SWITCH:
            wrong.remove("True")  # on
        elif isinstance(old, int) and not isinstance(old, bool):
            wrong = ["'x'", "(1,)", "1.5"]
        assert key in refused({key: draw.choice(wrong)})


@pytest.mark.parametrize("kind", YAML)
def test_broken_yaml_is_refused(kind, refused, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(YAML[kind])
    refused(flags=["--config-file", str(tmp_path / "bad.yaml")])


@pytest.fixture
def finished(tiny_values, tmp_path):
    pairs = {**tiny_values, "OUTPUT_DIR": tmp_path / "finished", "OPTIM.MAX_EPOCH": 1}
    assert main([part for key, value in pairs.items() for part in (key, str(value))]) == 0
    return tmp_path / "finished" / "linear" / "model.pth.tar-1"


@pytest.mark.parametrize("how", DAMAGE)
def test_bad_checkpoints_are_refused_and_do_not_run(how, refused, finished, tmp_path, capsys):
    whole, draw, mark = finished.read_bytes(), random.Random(how), tmp_path / "ran"
    folder = str(tmp_path / "finished")
    capsys.readouterr()
    for _ in range(30 if how in ("cut", "flipped") else 1):
        finished.write_bytes(whole)
        damage(finished, how, mark, draw)
        assert folder in refused(flags=["--eval-only", "--model-dir", folder, "--load-epoch", "1"])
        refused({"RESUME": folder})
    for name in ("weights.pt", "weights.safetensors"):
        weights = tmp_path / name
        damage(weights, how, mark, draw)
        assert name in refused({"TRAINER.NAME": "SOTGLP", "MODEL.BACKBONE.NAME": str(weights)})
    assert not mark.exists()


@pytest.mark.parametrize(
    "key, value",
    [("TOPK", 65), ("TOPK", -1), ("EPS", 0.0), ("EPS", -1.0), ("N_LOCAL", -1), ("PREC", "fp8"), ("PATCHES", "first")]
    + [("PROMPT_DROPOUT", 1.5), ("TRANSPORT", "free"), ("SUPPORT", "all"), ("LOCAL_INIT", "zeros")]
    + [("CTX_INIT", "word " * 77), ("EPS", "nan")],
)
def test_impossible_values_of_the_method_are_refused(key, value, refused):
    values = {"TRAINER.NAME": "SOTGLP", "MODEL.BACKBONE.NAME": "small", **SMALL_CLIP}
    line = refused({**values, f"TRAINER.SOTGLP.{key}": value})
    assert str(value) in line or "tokens" in line
    assert key in line or key in ("TOPK", "CTX_INIT", "PATCHES", "TRANSPORT", "SUPPORT", "LOCAL_INIT", "PREC")


@pytest.mark.parametrize(
    "content", [b"", b"path,label\n", b"path,label,split\n", b"\x00\xff", b"path,label,split\na,b,c\n"]
)
def test_broken_csv_is_refused(content, refused, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.csv").write_bytes(content)
    assert "a.csv" in refused({"DATASET.NAME": "CSV", "DATASET.ROOT": folder})


def test_bad_folders_and_images_are_refused(refused, tmp_path):
    draw_squares(tmp_path)
    own = {"DATASET.NAME": "ImageFolder", "DATASET.ROOT": tmp_path / "squares"}
    (tmp_path / "squares" / "classnames.txt").write_bytes(b"red\n")
    assert "classnames.txt" in refused(own)
    (tmp_path / "squares" / "classnames.txt").unlink()
    (tmp_path / "squares" / "train" / "empty").mkdir()
    assert "empty" in refused(own)
    (tmp_path / "squares" / "train" / "empty").rmdir()
    image = tmp_path / "squares" / "test" / "red" / "0.png"
    image.write_bytes(b"no image")
    assert str(image) in refused(own)
    (tmp_path / "file").touch()
    assert "file" in refused({"OUTPUT_DIR": tmp_path / "file"})


def test_long_names_are_refused_or_reported():
    clip = sotglp.load_clip("small")
    name = "word " * 80
    with pytest.raises(ValueError, match=r"leaves room for 75.*INPUT.LONG_NAMES"):
        encode_names(clip, [name])
    clip.long_names = "truncate"
    with pytest.warns(UserWarning, match="truncated to 'word word"):
        assert len(fit_name(clip, name, "a photo of a {}.")) == 75


def test_intervals():
    assert all(is_inside(x, "[0, 1)") for x in (0, 0.5)) and not any(is_inside(x, "[0, 1)") for x in (-1e-9, 1))
    assert is_inside(1, "(0, 1]") and not is_inside(0, "(0, 1]") and is_inside(1e308, "[1, inf)")
    assert not is_inside(float("nan"), "[0, inf)")


@pytest.mark.parametrize("where", ["term", "gradient"])
def test_what_is_not_finite_stops_the_run_with_the_last_good_state(where, refused, tmp_path, monkeypatch):
    class Infinite(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, gradient: gradient / 0)

    losses, steps = SOTGLP.losses, []

    def broken(self, *arguments):
        terms = losses(self, *arguments)
        steps.append(terms)
        change = Infinite.apply if where == "gradient" else lambda term: term / 0
        return {**terms, "local": change(terms["local"])} if len(steps) == 3 else terms

    monkeypatch.setattr(SOTGLP, "losses", broken)
    line = refused({"TRAINER.NAME": "SOTGLP", "MODEL.BACKBONE.NAME": "small", **SMALL_CLIP})
    assert f"{'A gradient' if where == 'gradient' else 'Loss of local'} is infinite or NaN at epoch 1, batch 3" in line
    checkpoint = load_checkpoint(str(tmp_path / "run" / "prompt_learner" / "model.pth.tar-0-2"))
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())

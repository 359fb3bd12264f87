"""The trainers through train.py: on the embedded benchmark, and the full-size path on a miniature ImageNet."""

import csv
import json
import os
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

import sotglp
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import load_checkpoint
from scripts.methods import read_methods
from train import main

SMALL = [
    "--dataset-config-file",
    "configs/datasets/fashion_mnist.yaml",
    "--config-file",
    "configs/backbones/small.yaml",
]
QUICK = ["DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "10", "TEST.SPLIT", "val"]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def train(data, tmp_path):
    """Function (trainer, name, more arguments) -> results of a quick run on Fashion-MNIST into tmp_path/name."""

    def run(trainer, name, *arguments, options=QUICK):
        out = tmp_path / name
        common = ["--trainer", trainer, "--root", str(data), "--output-dir", str(out), "--seed", "1", *SMALL]
        assert main([*common, *arguments, *options]) == 0
        return json.loads((out / "results.json").read_text())

    return run


def test_a_memory_budget_changes_nothing_that_is_learned(train, capsys):
    ample, scarce = (
        train("SOTGLP", name, options=[*QUICK, "TRAINER.MEMORY_BUDGET", gib])
        for name, gib in (("ample", "1.0"), ("scarce", "1e-6"))
    )
    assert ample["metrics"] == scarce["metrics"]
    with pytest.raises(AssertionError):
        train("SOTGLP", "negative", options=[*QUICK, "TRAINER.MEMORY_BUDGET", "-1.0"])
    assert "error: config key TRAINER.MEMORY_BUDGET must be a number from 0, got -1.0" in capsys.readouterr().err


def test_sotglp_from_training_to_evaluation(train, tmp_path):
    results = train("SOTGLP", "first")
    again = train("SOTGLP", "second")
    assert results["metrics"] == again["metrics"]
    assert {"accuracy", "accuracy_global", "accuracy_local"} <= set(results["metrics"])
    loaded = train("SOTGLP", "eval", "--eval-only", "--model-dir", str(tmp_path / "first"), "--load-epoch", "2")
    assert loaded["metrics"] == results["metrics"]

    checkpoint = tmp_path / "first" / "prompt_learner" / "model.pth.tar-2"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes == {
        "global_prompts.context": (3, 4, 128),
        "local_prompts.context": (10, 4, 4, 128),
        "projection.weight": (128, 128),
    }
    assert checkpoint.stat().st_size < 500_000


BASELINES = (
    *("CoCoOp", "KgCoOp", "ProGrad", "PLOT", "PLOTPP", "LoCoOp", "GalLoP"),
    *("TipAdapter", "TipAdapterF", "LinearProbe", "CLIPLoRA", "MaPLe", "PromptSRC", "TCP"),
    *("GDA", "CLAP", "LPPP", "TwoSFS"),
)


DEEP = ("MaPLe", "PromptSRC", "TCP")  # the small CLIP has fewer blocks than their recipes count on


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_from_training_to_evaluation(train, tmp_path, name):
    recipe = ["--config-file", f"configs/trainers/{name}/small.yaml"] if name in DEEP else []
    recipe = ["--config-file", f"configs/trainers/{name}/default.yaml", *recipe]
    results = train(name, "first", *recipe)
    loaded = train(name, "eval", *recipe, "--eval-only", "--model-dir", str(tmp_path / "first"), "--load-epoch", "2")
    assert loaded["metrics"] == results["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PromptSRC", "TipAdapter", "TipAdapterF", "CLAP", "LPPP", "TwoSFS"])
def test_what_epochs_add_up_survives_an_interruption(train, tmp_path, data, name, monkeypatch):
    recipe = ["--config-file", f"configs/trainers/{name}/small.yaml"] if name in DEEP else []
    options = [*QUICK, "TRAIN.CHECKPOINT_FREQ", "1", "DATALOADER.TRAIN_X.SAMPLER", "SequentialSampler"]
    options += ["INPUT.TRANSFORMS", "('normalize',)"]  # whose views don't depend on where torch's random state was
    trainer = TRAINER_REGISTRY.get(name)
    whole = train(name, "whole", *recipe, options=options)

    def interrupted(self):
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "before_epoch", interrupted)
        arguments = ["--trainer", name, "--root", str(data), "--output-dir", str(tmp_path / "cut"), "--seed", "1"]
        assert main([*arguments, *SMALL, *recipe, *options]) == 130
    assert train(name, "cut", *recipe, options=options)["metrics"] == whole["metrics"]
    states = [
        load_checkpoint(str(tmp_path / run / "prompt_learner" / "model.pth.tar-2"))["state_dict"]
        for run in ("whole", "cut")
    ]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_an_ensemble_of_templates_is_another_zero_shot_clip(train):
    one, several = (
        train(name, name, "--eval-only", options=["TEST.SPLIT", "val"]) for name in ("ZeroshotCLIP", "ZeroshotCLIP2")
    )
    assert one["metrics"]["accuracy"] != several["metrics"]["accuracy"] > 15  # of 10 classes


@pytest.mark.slow
def test_sotglp_learns(train):
    """A few seconds of training beat the zero-shot CLIP."""
    options = ["DATASET.NUM_SHOTS", "16", "OPTIM.MAX_EPOCH", "4", "OPTIM.NAME", "sgd", "OPTIM.LR", "0.1"]
    zero_shot = train("ZeroshotCLIP", "zero_shot", "--eval-only", options=[])["metrics"]["accuracy"]
    assert zero_shot > 15  # of 10 classes
    assert train("SOTGLP", "sotglp", options=options)["metrics"]["accuracy"] > zero_shot + 5


def test_the_projection_free_variant_has_no_projection(train, tmp_path):
    train("SOTGLP", "free", options=[*QUICK, "TRAINER.SOTGLP.PROJECTION", "False"])
    state = load_checkpoint(str(tmp_path / "free" / "prompt_learner" / "model.pth.tar-2"))["state_dict"]
    assert set(state) == {"global_prompts.context", "local_prompts.context"}


@pytest.mark.parametrize(
    "options, shape",
    [
        ([], (1, 16, 128)),
        (["TRAINER.COOP.CSC", "True", "TRAINER.COOP.CLASS_TOKEN_POSITION", "middle"], (10, 1, 16, 128)),
        (["TRAINER.COOP.CTX_INIT", "a photo of a", "TRAINER.COOP.CLASS_TOKEN_POSITION", "front"], (1, 4, 128)),
    ],
)
def test_coop_contexts(train, tmp_path, options, shape):
    train("CoOp", "coop", options=[*QUICK, *options])
    state = load_checkpoint(str(tmp_path / "coop" / "prompt_learner" / "model.pth.tar-2"))["state_dict"]
    assert {name: tuple(value.shape) for name, value in state.items()} == {"context": shape}


@pytest.mark.parametrize(
    "trainer, options, message",
    [
        ("SOTGLP", ["TRAINER.SOTGLP.TOPK", "65"], "1 to P = 64 patches"),
        ("SOTGLP", ["TRAINER.SOTGLP.LOCAL_INIT", "zeros"], "xavier, orthogonal"),
        ("SOTGLP", ["TRAINER.SOTGLP.PREC", "fp8"], "fp32, amp, fp16, bf16"),
        ("SOTGLP", ["TRAINER.SOTGLP.EPS", "0."], "TRAINER.SOTGLP.EPS must be in (0, inf), got 0.0"),
        ("SOTGLP", ["TRAINER.SOTGLP.PROMPT_DROPOUT", "2."], "PROMPT_DROPOUT must be in [0, 1], got 2.0"),
        ("SOTGLP", ["INPUT.SIZE", "(32, 32)"], "INPUT.SIZE is (32, 32), but this CLIP was pretrained with (64, 64)"),
        ("SOTGLP", ["MODEL.BACKBONE.NAME", "RN51"], "did you mean RN50"),
        ("CoOp", ["TRAINER.COOP.CLASS_TOKEN_POSITION", "left"], "end, middle, front"),
        ("ZeroshotCLIP", ["TRAINER.ZEROSHOTCLIP.TEMPLATE", "a photo"], "needs one {}"),
    ],
)
def test_impossible_settings_are_one_line(trainer, options, message, data, tmp_path, capsys):
    arguments = ["--trainer", trainer, "--root", str(data), "--output-dir", str(tmp_path), *SMALL, *QUICK, *options]
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """A miniature ImageNet: two classes, two training images and one validation image each."""
    root = tmp_path_factory.mktemp("imagenet_root")
    names = {"n01440764": "tench", "n01484850": "great white shark"}
    generator = np.random.default_rng(0)
    for wnid in names:
        for split, count in (("train", 2), ("val", 1)):
            folder = root / "imagenet" / "images" / split / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (260, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.JPEG")
    lines = "".join(f"{wnid} {name}\n" for wnid, name in names.items())
    (root / "imagenet" / "classnames.txt").write_text(lines)
    return root


@pytest.fixture(scope="session")
def vit_b16(tmp_path_factory):
    """A ViT-B/16 with random weights, in half precision, as OpenAI's files hold it."""
    torch.manual_seed(0)
    clip = sotglp.CLIP(
        embed_dim=512, image_size=224, patch_size=16, vision_width=768, vision_layers=12, text_width=512, text_layers=12
    )
    path = tmp_path_factory.mktemp("weights") / "ViT-B-16.pt"
    torch.save(clip.half().state_dict(), path)
    return path


@pytest.fixture
def bash(python):
    """Function (script and its arguments, variables) -> its process, which has ended."""

    def run(*command, **environment):
        environment = {**os.environ, "PYTHON": str(python), **environment}
        return subprocess.run(["bash", *command], capture_output=True, text=True, env=environment)

    return run


@pytest.mark.slow
def test_the_full_size_script(bash, imagenet, vit_b16, tmp_path):
    """scripts/sotglp/main.sh on ViT-B/16 with the paper's ImageNet values, but for the number of epochs."""
    settings = {"DATA": str(imagenet), "OUTPUT": str(tmp_path), "SEEDS": "1"}
    command = ["scripts/sotglp/main.sh", "imagenet", "2", "--backbone", str(vit_b16)]
    quick = ["OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]
    done = bash(*command, *quick, **settings)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "imagenet" / "SOTGLP" / "vit_b16_2shots" / "with-projection" / "seed1"
    results = json.loads((run / "results.json").read_text())
    assert set(results["metrics"]["per_class_accuracy"]) == {"tench", "great white shark"}
    config = (run / "config.yaml").read_text()
    assert "BATCH_SIZE: 256" in config and "N_LOCAL: 4" in config and "LR: 0.01\n" in config

    again = bash(*command, *quick, **settings)
    assert again.returncode == 0 and "Finished before" in again.stdout


@pytest.mark.slow
def test_without_data_the_script_reports_what_is_missing(bash, tmp_path):
    done = bash("scripts/sotglp/main.sh", "imagenet", "16", DATA=str(tmp_path / "none"), OUTPUT=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert "imagenet/classnames.txt" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["imagenet"], ["imagenet", "many"], ["imagnet", "16"]])
def test_wrong_arguments_of_a_script_are_one_line(bash, arguments):
    done = bash("scripts/sotglp/main.sh", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "fashion_mnist" in done.stderr


@pytest.mark.slow
def test_compare_ends_in_a_table_and_pictures(bash, data, tmp_path):
    settings = {"DATA": str(data), "OUTPUT": str(tmp_path), "SEEDS": "1", "JOBS": "1"}
    done = bash("scripts/compare.sh", "fashion_mnist", "1", "OPTIM.MAX_EPOCH", "1", "TEST.SPLIT", "val", **settings)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "fashion_mnist" / "compare_small_1shots"
    names = {"table.md", "table.tex", "table.csv", "table.png", "seconds.png", "prompts"}
    assert {path.name for path in out.iterdir()} == names
    pictures = list(out.rglob("*.png"))
    assert len(pictures) == 4  # of one image, and of what the prompts share
    with (out / "table.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == [
            name for name, method in read_methods().items() if method.core
        ]
    for name in pictures:
        assert np.asarray(Image.open(name).convert("L")).std() > 10

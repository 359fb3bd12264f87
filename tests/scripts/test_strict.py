"""The strict protocol: no validation image is read, and no value depends on the data set."""

import hashlib
import json
import shutil

import pytest
from safetensors.torch import load_file
from written_runs import write_runs

import train
from dassl.config import flatten
from dassl.data.datasets import build_dataset
from scripts import compare, table, transfer, transfer_plans
from scripts.execution import configurations
from scripts.groups import read_groups
from scripts.methods import read_methods
from scripts.run import make_runs
from sotglp.backbones import SMALL as SMALL_CLIP

SMALL = ["--config-file", "configs/backbones/small.yaml", "DATASET.NAME", "Squares", "DATASET.NUM_SHOTS", "1"]
SHORT = {  # options that make a run of a second, of all trainers that choose something on validation images
    "TipAdapter": ["OPTIM.MAX_EPOCH", "1"],
    "TipAdapterF": ["OPTIM.MAX_EPOCH", "1", "TRAINER.TIPADAPTERF.VIEWS", "1"],
    "LinearProbe": ["OPTIM.MAX_EPOCH", "1"],
    "GDA": ["OPTIM.MAX_EPOCH", "1", "TRAINER.GDA.VIEWS", "1"],
    "LPPP": ["OPTIM.MAX_EPOCH", "1", "OPTIM.NAME", "sgd"],
}


@pytest.fixture(scope="module")
def unreadable_root(squares_root, tmp_path_factory):
    """The squares, with validation images that no program can open."""
    root = tmp_path_factory.mktemp("unreadable")
    shutil.copytree(squares_root / "squares", root / "squares")
    for path in (root / "squares" / "val").rglob("*.png"):
        path.write_text("no image")
    return root


def arguments_of(trainer, root, folder):
    where = ["--root", str(root), "--seed", "1", "--output-dir", str(folder)]
    return ["--trainer", trainer, *where, *SMALL, *SHORT[trainer]]


@pytest.fixture(scope="module", params=SHORT)
def strict_run(request, unreadable_root, tmp_path_factory):
    """A trainer, and the folder of its strict run."""
    folder = tmp_path_factory.mktemp("strict")
    assert train.main([*arguments_of(request.param, unreadable_root, folder), "PROTOCOL", "strict"]) == 0
    return request.param, folder


def test_only_a_published_run_reads_validation_images(strict_run, unreadable_root, tmp_path, capsys):
    trainer, _ = strict_run  # it has ended well
    assert train.main(arguments_of(trainer, unreadable_root, tmp_path)) == 2
    assert f"cannot read image {unreadable_root}/squares/val/" in capsys.readouterr().err


def test_results_count_what_is_learned_and_identify_the_backbone(strict_run):
    """By hand, of one image of each of 4 classes: keys; weights and biases; LP++ also has the text's weights."""
    trainer, folder = strict_run
    width = load_file(SMALL_CLIP)["visual.proj"].shape[1]
    learned = {"TipAdapterF": width, "LinearProbe": width + 1, "LPPP": width + 2}
    results = json.loads((folder / "results.json").read_text())
    assert results["learned_parameters"] == 4 * learned.get(trainer, 0)
    assert results["backbone_hash"] == hashlib.sha256(SMALL_CLIP.read_bytes()).hexdigest()[:16]


def test_both_protocols_have_the_same_training_images(make_cfg):
    both = [build_dataset(make_cfg({"PROTOCOL": name, "DATASET.NUM_SHOTS": 2})) for name in ("published", "strict")]
    paths = [[item.impath for item in dataset.train_x] for dataset in both]
    assert paths[0] == paths[1] and len(both[0].val) == 8 and both[1].val is None


def settings_of(protocol):
    """For ImageNet and EuroSAT the settings {(method, key): value} of all methods, but for the names of both."""
    found = {"imagenet": {}, "eurosat": {}}
    runs = make_runs([method.by(protocol) for method in read_methods().values()], found, [16], seeds=[1])
    for run, cfg in configurations(runs).items():
        values = {key: value for key, value in flatten(cfg).items() if key not in ("OUTPUT_DIR", "DATASET.NAME")}
        found[run.dataset] |= {(run.method.name, key): value for key, value in values.items()}
    return found.values()


def test_no_value_depends_on_the_data_set(environment):
    imagenet, eurosat = settings_of("strict")
    assert imagenet == eurosat and len(imagenet) > 1000
    run = make_runs([read_methods()["CoOp, shared context"]], ["imagenet"], [16])[0]
    assert run.method_file()[0].stem == "imagenet"


def test_results_are_apart_and_rows_say_strict(environment, tmp_path):
    words = ["--method", "CoOp, shared context", "fashion_mnist", "4"]
    (published, *_), out, _ = compare.parse(words)
    (strict, *_), strict_out, _ = compare.parse(["--protocol", "strict", *words])
    assert strict.folder == tmp_path / "fashion_mnist/CoOp/small_4shots_strict/shared-context/seed1" != published.folder
    assert (out.name, strict_out.name) == ("compare_small_4shots", "compare_small_4shots_strict")
    assert strict.method.name == "CoOp, shared context, strict"
    (plan,), out, _ = transfer.parse(["base_to_new", "--protocol", "strict", *words])
    (test, *_) = transfer_plans.tests_of(plan, configurations(plan.runs))[plan.targets[0]]
    assert "fashion_mnist/CoOp/small_4shots_strict" in str(test.folder)
    assert out.name == "base_to_new_fashion_mnist_4shots_strict"
    assert train.setup_cfg(train.parse_args(test.arguments)).PROTOCOL == "strict"


def test_runs_of_both_protocols_are_rows_of_one_table(tmp_path, capsys):
    folders = [write_runs(tmp_path / "a" / "shared-context", [50.0, 60.0])]
    folders += [write_runs(tmp_path / "b" / "shared-context", [40.0, 50.0], protocol="strict")]
    assert [group.method.name for group in read_groups(folders)] == [
        "CoOp, shared context",
        "CoOp, shared context, strict",
    ]
    assert table.main([*map(str, folders), "--out", str(tmp_path / "out")]) == 0
    assert "16 shots, small, published and strict protocol: accuracy in %" in capsys.readouterr().out

"""Protocols that test what was learned on images of other classes, data sets and domains."""

import csv
import json
import signal
import subprocess
import sys
from statistics import stdev

import pytest
import torch
from processes import finish, wait_for
from torch import nn

import train
from dassl.engine import build_trainer
from scripts import execution, transfer, transfer_plans
from scripts.groups import Group
from scripts.methods import read_methods
from scripts.run import make_runs
from scripts.transfer_tables import harmonic, make_table
from trainers.twosfs import NormsAndClassifier

QUICK = ["OPTIM.MAX_EPOCH", "1", "TEST.SPLIT", "val"]
SHARED = ["--method", "zero-shot CLIP", "--method", "CoOp, shared context"]
METHODS = [*SHARED, "--method", "CoOp, class-specific contexts"]


def planned(*words):
    """The plan of a protocol with one, and {target's name: its evaluations}."""
    (plan,), out, _ = transfer.parse(list(words))
    tests = transfer_plans.tests_of(plan, execution.configurations(list(plan.runs)))
    return plan, {target.name: evaluations for target, evaluations in tests.items()}, out


def config(command):
    return train.setup_cfg(train.parse_args(command.arguments))


def test_base_to_new(environment, tmp_path):
    plan, tests, out = planned("base_to_new", *METHODS, "emoji", "4", "OPTIM.LR", "0.1")
    assert out == tmp_path / "base_to_new_emoji_4shots"
    assert len(plan.runs) == 5 and all(config(run).DATASET.SUBSAMPLE_CLASSES == "base" for run in plan.runs)
    assert {test.method.name for test in tests["new"]} == {"zero-shot CLIP", "CoOp, shared context"}
    for test in tests["new"]:
        cfg = config(test)
        assert cfg.DATASET.SUBSAMPLE_CLASSES == "new" and cfg.OPTIM.LR == 0.1 and cfg.SEED == test.run.seed
        assert test.folder == test.run.folder / "test" / "new"
        arguments = train.parse_args(test.arguments)
        assert arguments.eval_only and arguments.model_dir == (str(test.run.folder) if test.method.trained else "")
        assert arguments.load_epoch == (50 if test.method.trained else None)


def test_cross_dataset(environment, tmp_path):
    plan, tests, out = planned("cross_dataset", *METHODS, "imagenet", "dtd,eurosat", "16")
    assert out == tmp_path / "cross_dataset_imagenet_dtd+eurosat_16shots"
    assert plan.runs[0].folder == make_runs([plan.runs[0].method], ["imagenet"], ["16"])[0].folder
    assert list(tests) == ["dtd", "eurosat"] and all(len(evaluations) == 3 for evaluations in tests.values())
    cfg = config(tests["dtd"][1])
    assert cfg.DATASET.NAME == "DescribableTextures" and cfg.DATASET.NUM_SHOTS == -1 and cfg.OPTIM.MAX_EPOCH == 50


def test_domain_generalization(environment):
    _, tests, _ = planned("domain_generalization", *METHODS, "imagenet", "16")
    count = {name: len(evaluations) for name, evaluations in tests.items()}
    assert count == {"imagenetv2": 5, "imagenet_sketch": 5, "imagenet_a": 3, "imagenet_r": 3}
    plan, tests, _ = planned("domain_generalization", *METHODS, "--sources", "noto,fluent", "emoji", "4")
    assert list(tests) == ["twemoji", "openmoji"] and len(tests["openmoji"]) == 5
    own, other = config(plan.runs[1]).DATASET, config(tests["openmoji"][1]).DATASET
    assert own.SOURCE_DOMAINS == own.TARGET_DOMAINS == other.SOURCE_DOMAINS == ("noto", "fluent")
    assert other.TARGET_DOMAINS == ("openmoji",)


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give a protocol, one of: base_to_new; cross_dataset; domain_generalization"),
        (["base_to_new", "emoji"], "give DATASETS SHOTS; see --help"),
        (["cross_dataset", "imagenet", "dtd"], "give SOURCE TARGETS SHOTS; see --help"),
        (["cross_dataset", "imagenet", "dtd,imagenet", "16"], "imagenet is trained on and tested anyway"),
        (["cross_dataset", "imagenet", "mnist", "16"], "unknown data set mnist"),
        (["domain_generalization", "dtd", "16"], "dtd has no domains"),
        (["domain_generalization", "--sources", "photo", "emoji", "4"], "unknown domain of emoji photo"),
        (["domain_generalization", "--sources", "noto,twemoji,fluent,openmoji", "emoji", "4"], "none of"),
        (["base_to_new", "--sources", "noto", "emoji", "4"], "--sources is for domain_generalization"),
        (["base_to_new", "emoji", "4", "OPTIM.EPOCHS", "3"], "OPTIM.EPOCHS"),
    ],
)
def test_a_mistake_is_one_line(environment, capsys, words, message):
    assert transfer.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def group(dataset, accuracies, seeds=3):
    """A Group of seeds 1, 2, ... with these accuracies; runs of further seeds are not finished."""
    results = {seed: {"metrics": {"accuracy": accuracy}} for seed, accuracy in enumerate(accuracies, 1)}
    method = read_methods()["CoOp, shared context"]
    return Group(method, dataset, 16, list(range(1, seeds + 1)), results)


def test_harmonic_mean_by_hand():
    """Means 60 and 40: 48. Seeds: 80 and 20 give 32, 60 and 60 give 60, 40 and 40 give 40."""
    base, new = group("emoji", [80.0, 60.0, 40.0]), group("emoji", [20.0, 60.0, 40.0])
    cell = harmonic([base], [new])
    assert cell.mean == pytest.approx(48) and cell.deviation == pytest.approx(stdev([32, 60, 40]))
    assert harmonic([base], [group("emoji", [20.0, 60.0])]).text() == ""
    # Of two data sets: means 60 and 50; seeds' averages are 70 and 35, 60 and 60, 50 and 55.
    others = [group("dtd", [60.0, 60.0, 60.0]), group("dtd", [50.0, 60.0, 70.0])]
    cell = harmonic([base, others[0]], [new, others[1]])
    assert cell.mean == pytest.approx(2 * 60 * 50 / 110)
    assert cell.deviation == pytest.approx(stdev([2 * 70 * 35 / 105, 60, 2 * 50 * 55 / 105]))


def test_the_average_is_of_the_targets_and_only_of_all():
    columns = [[group("emoji", [90.0] * 3)], [group("dtd", [50.0] * 3)], [group("eurosat", [60.0] * 3)]]
    method = read_methods()["CoOp, shared context"]
    headers, rows = make_table(["emoji", "dtd", "eurosat"], "average", {method: columns})
    assert headers == ["method", "emoji", "dtd", "eurosat", "average"] and rows[0][-1].text() == "55.0 ± 0.0"
    columns[2] = [None]
    _, rows = make_table(["emoji", "dtd", "eurosat"], "average", {method: columns})
    assert [cell.text() for cell in rows[0][1:]] == ["90.0 ± 0.0", "50.0 ± 0.0", "", ""]


@pytest.mark.slow
def test_base_to_new_from_start_to_table(environment, tmp_path, monkeypatch, capsys):
    for name, value in {"SEEDS": "1", "JOBS": "1"}.items():
        monkeypatch.setenv(name, value)
    words = ["base_to_new", *METHODS, "fashion_mnist", "2", *QUICK]
    # Interrupted when the first of three runs is finished, or soon after; the same command does the rest.
    command = [sys.executable, "-m", "scripts.transfer", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.rglob("results.json")), process)
    process.send_signal(signal.SIGINT)
    errors = finish(process)[1]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    assert f"interrupted: {len(before)} of 5 runs are finished" in errors and process.returncode == 130
    assert len(before) < 3
    assert transfer.main(words) == 0
    first = capsys.readouterr().out
    assert f"3 runs and 2 tests of them, {len(before)} finished before" in first
    assert before == {path: path.stat().st_mtime_ns for path in before}
    out = tmp_path / "base_to_new_fashion_mnist_2shots"
    rows = {row["method"] + " " + row["tested on"]: row for row in csv.DictReader((out / "table.csv").open())}
    assert len(rows) == 5 and "CoOp, class-specific contexts new" not in rows
    base, new = (float(rows[f"CoOp, shared context {half}"]["mean"]) for half in ("base", "new"))
    line = next(line for line in first.splitlines() if line.startswith("CoOp, shared context"))
    both = 2 * base * new / (base + new)
    assert line.split()[3:] == [f"{value:.1f}" for value in (base, new, both)]
    alone = next(line for line in first.splitlines() if line.startswith("CoOp, class-specific"))
    assert len(alone.split()) == 4 and "the method learned prompts of each class" in first

    # The weights of the base classes, put by hand into a model of the new ones.
    (path,) = (path for path in tmp_path.rglob("test/new/config.yaml") if "CoOp" in path.parts)
    train.set_determinism(1)
    trainer = build_trainer(train.setup_cfg(train.parse_args(["--config-file", str(path)])))
    trained_on = json.loads((path.parents[2] / "results.json").read_text())["metrics"]["per_class_accuracy"]
    assert not set(trainer.dm.dataset.classnames) & set(trained_on)
    weights = torch.load(path.parents[2] / "prompt_learner" / "model.pth.tar-1", weights_only=True)["state_dict"]
    trainer.model.learned.load_state_dict(weights)
    assert trainer.test() == pytest.approx(new)

    # Again: nothing that is finished is done again, what is missing is.
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    capsys.readouterr()
    removed = path.with_name("results.json")
    removed.unlink()
    assert transfer.main(words) == 0
    again = capsys.readouterr().out
    assert "4 finished before" in again and first.split("\n\n", 1)[1] == again.split("\n\n", 1)[1]
    assert [p for p, moment in done.items() if p.stat().st_mtime_ns != moment] == [removed]

    # Prompts of each class that the list of methods does not declare are not tested on other classes.
    (tmp_path / "methods.yaml").write_text(
        "mine: {trainer: CoOp, variant: class-specific-contexts, options: [TRAINER.COOP.CSC True]}"
    )
    assert transfer.main([words[0], "--methods", str(tmp_path / "methods.yaml"), *words[-6:]]) == 2
    captured = capsys.readouterr()
    assert "write class_specific: true" in captured.err and "0 of 1 seeds" in captured.out

    # A finished test with other settings is refused, not shown.
    path.write_text(path.read_text().replace("SUBSAMPLE_CLASSES: new", "SUBSAMPLE_CLASSES: all"))
    assert transfer.main(words) == 2
    assert "finished with other settings (DATASET.SUBSAMPLE_CLASSES all -> new)" in capsys.readouterr().err


def test_domains_do_not_depend_on_other_runs(environment, tmp_path):
    """A comparison's finished run of the same data set with other settings is another run."""
    plan, _, _ = planned("domain_generalization", *SHARED, "emoji", "4")
    assert all("domain_generalization" in run.folder.parts for run in plan.runs)
    assert plan.own == "noto+twemoji+fluent" and [target.name for target in plan.targets] == ["openmoji"]
    other = make_runs([plan.runs[0].method], ["emoji"], ["4"])[0].folder
    other.mkdir(parents=True)
    (other / "results.json").write_text("{}")
    (other / "config.yaml").write_text("TEST: {SPLIT: val}")
    planned("domain_generalization", *SHARED, "emoji", "4")


def test_2sfs_meets_new_classes_without_its_classifier(environment):
    _, tests, _ = planned("base_to_new", "--method", "2SFS", "--method", "GDA", "emoji", "4")
    assert {test.method.name for test in tests["new"]} == {"2SFS"}
    new = tests["new"][0]
    assert config(new.run).TRAINER.TWOSFS.CLASSIFIER and not config(new).TRAINER.TWOSFS.CLASSIFIER
    learned, other = (NormsAndClassifier([nn.LayerNorm(4)], n_classes, 4) for n_classes in (3, 0))
    nn.init.constant_(learned.norms[0].weight, 2.0)
    other.load_state_dict(learned.state_dict())
    assert torch.equal(other.norms[0].weight, torch.full((4,), 2.0))

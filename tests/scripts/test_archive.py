"""Archives of results: what a line holds, and other people's results beside ours."""

import csv
import json
from types import SimpleNamespace

import pytest
from written_runs import write_runs

from dassl.data.datasets import hash_images
from scripts import archive, compare, table

HERS, OURS = [60.0, 62.0, 64.0], [50.0, 52.0, 54.0]


def write_output(root, accuracies, settings="SEED: 1", place="", **about):
    """Finished runs of CoOp in the folders of an output; return their group's folder."""
    group = root / place / "fashion_mnist" / "CoOp" / "small_16shots" / "shared-context"
    write_runs(group, accuracies, **about)
    for path in group.glob("seed*"):
        (path / "config.yaml").write_text(settings)
    return group


@pytest.fixture
def her_file(tmp_path, capsys):
    """Function (keyword arguments of write_output) that returns another person's archive."""

    def make(**about):
        write_output(tmp_path / "hers", HERS, **about)
        assert archive.main([str(tmp_path / "hers")]) == 0
        (tmp_path / "hers.jsonl").write_text(capsys.readouterr().out)
        return tmp_path / "hers.jsonl"

    return make


def tabulated(tmp_path, *files):
    """Make a table of our runs beside archives; return its exit code and the rows of table.csv."""
    ours = write_output(tmp_path / "ours", OURS, split="a")
    words = [word for file in files for word in ("--archive", str(file))]
    code = table.main([*words, str(ours), "--out", str(tmp_path / "out")])
    path = tmp_path / "out" / "table.csv"
    return code, {row["method"]: float(row["mean"]) for row in csv.DictReader(path.open())} if path.exists() else {}


def test_results_on_the_same_images_stand_in_one_table(tmp_path, her_file):
    code, rows = tabulated(tmp_path, her_file(split="a"))
    assert code == 0 and rows == {"CoOp, shared context": 52.0, "CoOp, shared context (hers)": 62.0}


def test_other_images_are_refused(tmp_path, her_file, capsys):
    code, rows = tabulated(tmp_path, her_file(split="b"))
    error = capsys.readouterr().err
    assert code == 2 and not rows and len(error.splitlines()) == 1
    assert "CoOp, shared context and CoOp, shared context (hers) had other" in error
    assert "images of FashionMNIST (a" in error and "cannot stand in one table" in error


def test_seeds_of_other_test_images_are_not_averaged(tmp_path, capsys):
    group = write_output(tmp_path, OURS, split="a")
    path = group / "seed3" / "results.json"
    path.write_text(path.read_text().replace('"test": "a"', '"test": "b"'))
    assert table.main([str(group), "--out", str(tmp_path / "out")]) == 2
    assert "had other test images of FashionMNIST (a and b, seed 3)" in capsys.readouterr().err


def test_only_whole_few_shot_runs_are_shown(tmp_path, her_file):
    """Hers has runs on half of the classes, too, on other images."""
    write_output(tmp_path / "hers", [99.0], "DATASET: {SUBSAMPLE_CLASSES: base}", "base_to_new", split="c")
    assert tabulated(tmp_path, her_file(split="a"))[1]["CoOp, shared context (hers)"] == 62.0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("FashionMNIST", "Emoji"), "no few-shot run on FashionMNIST, 16 shots, small"),
        (lambda text: text + text, "two lines about CoOp, shared context on FashionMNIST, 16 shots, seed 1"),
        (lambda text: text[:-20], "line 3, is no line of scripts.archive"),
        (lambda text: text.replace('"shots"', '"shot"'), "line 1, lacks shots"),
        (lambda text: text.replace("split_hash", "no_hash"), "line 1, lacks split_hash"),
    ],
)
def test_a_wrong_archive_is_one_line(tmp_path, her_file, capsys, change, message):
    file = her_file(split="a")
    file.write_text(change(file.read_text()))
    code, _ = tabulated(tmp_path, file)
    error = capsys.readouterr().err
    assert code == 2 and message in error and len(error.splitlines()) == 1


def test_runs_without_a_record_of_their_images_cannot_stand_beside_others(tmp_path, her_file, capsys):
    assert tabulated(tmp_path, her_file())[0] == 2
    assert "(hers) on FashionMNIST, 16 shots, small: results.json of an earlier version" in capsys.readouterr().err


def test_a_comparison_shows_an_archive(tmp_path, environment, her_file, capsys):
    file = her_file(split="a")
    write_output(tmp_path, OURS, split="a")
    runs, out, args = compare.parse(["--archive", str(file), "--method", "CoOp, shared context", "fashion_mnist", "16"])
    configs = {
        run: SimpleNamespace(DATASET=SimpleNamespace(NAME="FashionMNIST"), TRAINER=SimpleNamespace(NAME="CoOp"))
        for run in runs
    }
    compare.report(configs, out, args.published, args.archive)
    assert "CoOp, shared context (hers)  62.0 ± 2.0" in capsys.readouterr().out


def test_a_line_holds_what_the_files_hold(tmp_path):
    group = write_output(
        tmp_path, [50.0], "DATASET: {SUBSAMPLE_CLASSES: base}", split="a", per_class_accuracy={"a": 1.0}
    )
    learned = group / "seed1" / "prompt_learner" / "model.pth.tar-10"
    learned.parent.mkdir()
    learned.write_bytes(b"weights")
    ood = {"average": {"MCM": {"AUROC": 80.0}}, "near": {}, "asked": {"sets": [str(tmp_path)]}, "histograms": {}}
    (group / "seed1" / "ood.json").write_text(json.dumps(ood))
    test = group / "seed1" / "test" / "new"
    test.mkdir(parents=True)
    results = json.loads((group / "seed1" / "results.json").read_text())
    changes = {"metrics": {"accuracy": 30.0}, "shots": -1, "split_hash": {"train": "all", "test": "b"}}
    (test / "results.json").write_text(json.dumps({**results, **changes}))
    (test / "config.yaml").write_text("DATASET: {SUBSAMPLE_CLASSES: new}\nTEST: {SPLIT: val}")
    own, new = map(json.loads, archive.lines_of(tmp_path))
    assert own["metrics"] == {"accuracy": 50.0, "per_class_accuracy": {"a": 1.0}}
    assert (own["method"], own["shots"], own["seed"], own["protocol"]) == ("CoOp, shared context", 16, 1, "published")
    assert own["learned_hash"] == new["learned_hash"] == {"prompt_learner": "9a129038d9a00aed"}
    assert own["ood"] == {"average": {"MCM": {"AUROC": 80.0}}, "near": {}} and new["ood"] is None
    assert new["metrics"] == {"accuracy": 30.0} and new["shots"] == 16
    assert new["split_hash"] == {"train": "a, seed 1", "test": "b"}
    assert new["trained_on"] == {"dataset": "FashionMNIST", "classes": "base", "domains": []}
    assert new["tested_on"] == {"dataset": "FashionMNIST", "classes": "new", "domains": [], "split": "val"}
    assert str(tmp_path) not in json.dumps([own, new])


def test_images_are_identified_by_their_places_and_labels():
    def digits(root, *images):
        items = [SimpleNamespace(impath=f"{root}/{path}", label=label) for path, label in images]
        return hash_images(items, root)

    same = digits("/a/data", ("x/1.png", 0), ("y/1.png", 1))
    assert same == digits("/b", ("y/1.png", 1), ("x/1.png", 0)) and len(same) == 16
    others = [(("x/1.png", 0),), (("x/1.png", 1), ("y/1.png", 0)), (("x/1.png", 0), ("y/2.png", 1))]
    assert len({same, *(digits("/a/data", *images) for images in others)}) == 4

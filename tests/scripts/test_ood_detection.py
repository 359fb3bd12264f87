"""OOD detection of several methods: from runs to tables, and again."""

import csv
import json
from types import SimpleNamespace

import pytest

from scripts import ood_detection, table
from scripts.groups import Cell
from scripts.methods import Method
from scripts.ood_sets import SCORES


@pytest.mark.slow
def test_from_start_to_tables(environment, tmp_path, capsys):
    methods = ["--method", "zero-shot CLIP", "--method", "CoCoOp"]
    words = [*methods, "fashion_mnist", "1", "OPTIM.MAX_EPOCH", "1", "TEST.SPLIT", "val"]
    assert ood_detection.main(words) == 0
    first = capsys.readouterr().out
    assert "3 runs and their OOD detection, 0 of 6 finished before" in first
    out = tmp_path / "fashion_mnist" / "ood_compare_small_1shots"
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("ood.json") if "CoCoOp" in path.parts]
    rows = list(csv.DictReader((out / "table.csv").open()))
    chosen = {
        (row["OOD set"], row["score"]): row for row in rows if (row["method"], row["metric"]) == ("CoCoOp", "FPR95")
    }
    for name, score in (("flag", "MCM"), ("texture", "Energy")):
        values = [result["sets"][name][score]["FPR95"] for result in results]
        assert float(chosen[name, score]["mean"]) == pytest.approx(sum(values) / 2)
    average = sum(result["average"]["MaxLogit"]["AUROC"] for result in results) / 2
    line = next(line for line in first.splitlines() if line.startswith("CoCoOp"))
    assert f"{average:.1f}" in line and ("average", "L-MCM") not in chosen  # it reads no patches

    scored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert ood_detection.main(words) == 0
    again = capsys.readouterr().out
    assert "6 of 6 finished before" in again and first.split("\n\n", 1)[1] == again.split("\n\n", 1)[1]
    assert scored == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}


def test_near_sets_and_the_full_spectrum_have_tables_of_their_own(tmp_path, capsys):
    scores = {score: {"AUROC": 10.0 * i, "FPR95": 100.0 - i} for i, score in enumerate(SCORES)}
    results = {"sets": {"Textures": scores, "NINCO": scores}, "average": scores, "near": scores}
    asked = {"sets": ["Textures", "NINCO"], "shifted": ["ImageNetR"]}
    results = {**results, "full spectrum": results, "asked": asked}
    method = Method("CoOp", "CoOp", "shared", trained=True)
    run = SimpleNamespace(dataset="imagenet", shots=16, method=method, seed=1, folder=tmp_path / "run", root="data")
    run.folder.mkdir()
    (run.folder / "ood.json").write_text(json.dumps(results))
    sets, shifted = ("Textures", "NINCO"), ("ImageNetR",)
    detection = ood_detection.Detection(run, sets, shifted)
    assert detection.arguments[3:] == ["--sets", "Textures", "NINCO", "--shifted", "ImageNetR"]
    assert detection.finished and ood_detection.Detection(run).finished
    assert not ood_detection.Detection(run, sets).finished and not ood_detection.Detection(run, (), shifted).finished
    ood_detection.report([detection], tmp_path)
    printed = capsys.readouterr().out
    for spectrum in ("", "full spectrum, "):
        for near in ("", "near "):
            for metric in ("AUROC", "FPR95"):
                words = f"{metric} in %, {spectrum}averages over the {near}OOD sets,"
                assert f"imagenet, 16 shots, published protocol: {words}" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 120 and all(score in printed for score in SCORES)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    places = {row["OOD set"] for row in rows if row["score"] == "OffSupport"}
    names = {"Textures", "NINCO", "average", "near"}
    assert places == names | {f"full spectrum, {name}" for name in names}


def test_the_smallest_rate_is_the_best():
    cells = [Cell(3.0, counts=True), Cell(1.0, counts=True), Cell(1.04, counts=True), Cell()]
    table.mark_best(cells, min)
    assert [cell.best for cell in cells] == [False, True, True, False]


def test_a_mistake_is_one_line(capsys):
    assert ood_detection.main(["fashion_mnist"]) == 2
    assert capsys.readouterr().err.startswith("error: give DATASETS and SHOTS")

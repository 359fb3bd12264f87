"""The table of results, by hand."""

import json

import pytest

from scripts.table import main, summarise


def write_runs(folder, accuracies, **extra):
    for seed, accuracy in enumerate(accuracies, 1):
        run = {"metrics": {"accuracy": accuracy, **extra}, "seed": seed, "trainer": "CoOp", "seconds": 10.0}
        run.update(dataset="FashionMNIST", shots=16, backbone="small")
        (folder / f"seed{seed}").mkdir(parents=True)
        (folder / f"seed{seed}" / "results.json").write_text(json.dumps(run))
    return folder


def test_mean_and_sample_deviation(tmp_path):
    row = summarise(write_runs(tmp_path / "shared-context", [50.0, 52.0, 57.0]))
    assert row["method"] == "CoOp, shared context" and row["seeds"] == 3
    assert row["accuracy"] == (53.0, pytest.approx(13.0**0.5))
    assert row["global branch"] is None


def test_files(tmp_path, capsys):
    groups = [write_runs(tmp_path / "one", [50.0]), write_runs(tmp_path / "two", [40.0, 42.0], accuracy_local=30.0)]
    assert main([*map(str, groups), "--out", str(tmp_path / "out")]) == 0
    assert "41.0 ± 1.4" in capsys.readouterr().out
    markdown = (tmp_path / "out" / "table.md").read_text()
    assert "CoOp, two" in markdown and "30.0 ± 0.0" in markdown
    assert (tmp_path / "out" / "table.csv").read_text().splitlines()[1].startswith('"CoOp, one",1,50.0,,,')


def test_no_finished_run_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no finished run" in capsys.readouterr().err

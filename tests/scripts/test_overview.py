"""The table of all protocols, from folders of finished runs."""

import csv
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from scripts import overview
from scripts.plots import pareto_front

ROOT = Path(__file__).parents[2]
WORDS = ["--method", "CoOp, shared context", "--method", "GDA", "fashion_mnist", "16"]


def rows_of(folder):
    """{method: {column: number or None}} of table.csv."""
    with (folder / "table.csv").open() as file:
        return {
            row.pop("method"): {key: float(x) if x and key != "protocol" else x or None for key, x in row.items()}
            for row in csv.DictReader(file)
        }


def finish(commands, method, values):
    """Write results.json of the commands of a method, with a value for each seed."""
    for command, (accuracy, facts) in zip([c for c in commands if c.method.name == method], values, strict=True):
        run = {"metrics": {"accuracy": accuracy}, "seed": command.seed, "trainer": command.method.trainer}
        run |= {"seconds": 10.0, "dataset": "FashionMNIST", "shots": command.shots, "backbone": "small", **facts}
        command.folder.mkdir(parents=True, exist_ok=True)
        (command.folder / "results.json").write_text(json.dumps(run))


def detect(runs, method, values):
    """Write ood.json of the runs of a method, with AUROC and FPR95 of GL-MCM for each seed."""
    for run, (auroc, fpr) in zip([run for run in runs if run.method.name == method], values, strict=True):
        scores = {"GL-MCM": {"AUROC": auroc, "FPR95": fpr}}
        (run.folder / "ood.json").write_text(json.dumps({"sets": {"flag": scores}, "average": scores}))


def test_every_column_comes_from_the_runs_of_its_protocol(environment, tmp_path, capsys):
    runs, base, new, _ = overview.parse(WORDS)
    about = {"learned_parameters": 8192, "peak_gib": {"process": 1.5, "gpu": None}}
    finish(runs, "CoOp, shared context", [(50.0, about), (52.0, about)])
    detect(runs, "CoOp, shared context", [(80.0, 40.0), (90.0, 20.0)])
    finish(base, "CoOp, shared context", [(80.0, {}), (60.0, {})])
    finish(new, "CoOp, shared context", [(20.0, {}), (60.0, {})])
    finish(runs, "CoOp, shared context, strict", [(40.0, {"peak_gib": {"process": 3.0, "gpu": 2.0}}), (44.0, {})])
    finish(runs, "GDA", [(60.0, {}), (60.0, {})])
    detect(runs, "GDA", [(70.0, 10.0), (70.0, 10.0)])
    finish(base, "GDA", [(90.0, {}), (90.0, {})])
    assert overview.main(WORDS) == 0
    out = tmp_path / "fashion_mnist" / "overview_small_16shots"
    rows = rows_of(out)
    assert list(rows) == ["CoOp, shared context", "CoOp, shared context, strict", "GDA"]
    coop, strict, gda = rows.values()
    assert (coop["accuracy"], coop["AUROC"], coop["FPR95"], coop["seconds"]) == (51.0, 85.0, 30.0, 10.0)
    assert coop["accuracy std"] == pytest.approx(2**0.5) and coop["AUROC std"] == pytest.approx(50**0.5)
    assert coop["HM"] == pytest.approx(2 * 70 * 40 / 110)
    assert (coop["learned"], coop["GiB"], coop["protocol"]) == (8.192, 1.5, "published")
    assert (strict["accuracy"], strict["protocol"], strict["GiB"]) == (42.0, "strict", 2.0)
    assert strict["AUROC"] is strict["HM"] is strict["learned"] is gda["HM"] is None
    text = (out / "table.md").read_text()
    assert "**10.0 ± 0.0**" in text and "**85.0 ± 7.1**" in text, "the smallest FPR95 and the largest AUROC are best"
    assert "AUROC and FPR95: by GL-MCM, on fashion_mnist. HM: on fashion_mnist." in text
    assert (out / "overview.png").stat().st_size > 1000


def test_a_missing_seed_is_said(environment, tmp_path):
    runs, _, _, _ = overview.parse(WORDS)
    finish(runs[:1], "CoOp, shared context", [(50.0, {})])
    assert overview.main(WORDS) == 0
    text = (tmp_path / "fashion_mnist" / "overview_small_16shots" / "table.md").read_text()
    assert "50.0 (1 of 2 seeds)" in text


def test_nothing_finished_is_one_line(environment, capsys):
    assert overview.main(WORDS) == 2
    assert capsys.readouterr().err == (
        "error: nothing of these methods is finished on fashion_mnist: run scripts/compare.sh first\n"
    )


def test_the_pareto_front():
    points = {"a": (1, 5), "b": (2, 4), "c": (2, 3), "d": (3, 4), "e": (4, 1), "f": (1, 5)}
    assert sorted(pareto_front(points)) == ["a", "d", "e", "f"]
    assert [points[name] for name in pareto_front(points)] == sorted(points[name] for name in "adef")
    draw = random.Random(1)
    points = {i: (draw.randrange(9), draw.randrange(9)) for i in range(60)}
    front = pareto_front(points)

    def beats(a, b):
        return a != b and min(a[0] - b[0], a[1] - b[1]) >= 0

    for i, point in points.items():
        assert (i in front) != any(beats(points[j], point) for j in front), "all others are beaten by one of the front"


INTERPRETER = """#!/bin/bash
echo "$*" >> "$LOG"
case "$*" in *"$WRONG"*) exit "$CODE" ;; esac
"""


@pytest.mark.parametrize("code, calls", [(0, 5), (1, 5), (2, 1), (130, 1)])
def test_the_script_runs_all_protocols_and_stops_at_a_mistake_or_an_interrupt(code, calls, tmp_path):
    """By an interpreter that writes down what it is asked for; a failed run (1) leaves a gap and stops nothing."""
    python = tmp_path / "python"
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    log = tmp_path / "log"
    settings = {
        "PYTHON": str(python),
        "LOG": str(log),
        "CODE": str(code),
        "WRONG": "ood_detection --protocol published",
    }
    words = ["fashion_mnist", "8", "OPTIM.LR", "0.1"]
    done = subprocess.run(["bash", "scripts/overview.sh", *words], env={**os.environ, **settings}, cwd=ROOT)
    lines = log.read_text().splitlines()
    given = "fashion_mnist 8 OPTIM.LR 0.1"
    assert (
        lines
        == [
            f"-m scripts.ood_detection --protocol published --method all {given}",
            f"-m scripts.transfer base_to_new --protocol published --method all {given}",
            f"-m scripts.ood_detection --protocol strict --method all {given}",
            f"-m scripts.transfer base_to_new --protocol strict --method all {given}",
            f"-m scripts.overview {given}",
        ][:calls]
    )
    assert done.returncode == (code if calls == 1 else 0)

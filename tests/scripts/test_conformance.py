"""All reference numbers hold, and a change in any would be noticed."""

import json
import multiprocessing
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from scripts.conformance import ways
from scripts.conformance.__main__ import main
from scripts.conformance.files import ReferenceFile

DATA = Path(__file__).parents[1] / "data"
REFERENCE, BASELINES = DATA / "sotglp_reference.npz", DATA / "baselines"
OTHER_WAYS = {  # {way: files}
    "prompts in parts": [REFERENCE, BASELINES / "MaPLe.npz"],
    "classes in parts": [REFERENCE],
    "kept features": [REFERENCE, BASELINES / "GalLoP.npz", BASELINES / "ProGrad.npz"],
}


@pytest.fixture
def alone(monkeypatch):
    """The command without its two processes, which take as long to start as all else."""
    monkeypatch.setattr(ways, "in_two_processes", lambda paths: {})


def failed_in(out):
    """Names of the quantities that a printed table calls FAILED."""
    return [line.split()[0] for line in out.splitlines() if line.endswith("FAILED")]


def changed(tmp_path, meta=(), **arrays):
    """Path of the method's own reference numbers with other values."""
    values = {**np.load(REFERENCE), **arrays}
    values["meta"] = json.dumps({**json.loads(str(values["meta"])), **dict(meta)})
    np.savez(tmp_path / "changed.npz", **values)
    return str(tmp_path / "changed.npz")


@pytest.mark.parametrize("path", [REFERENCE, *sorted(BASELINES.glob("*.npz"))], ids=lambda path: path.stem)
def test_reference_numbers_hold(path):
    rows, unknown = ways.check(ReferenceFile(path))
    assert len(rows) >= 10 and not unknown
    assert [row for row in rows if not row.passed] == []


def test_there_is_a_file_of_every_method():
    assert {ReferenceFile(path).method for path in (REFERENCE, *BASELINES.glob("*.npz"))} == set(ways.METHODS)


@pytest.mark.parametrize("way, path", [(way, path) for way in OTHER_WAYS for path in OTHER_WAYS[way]])
def test_they_hold_in_other_ways(way, path):
    rows, _ = ways.check(ReferenceFile(path), way)
    assert rows and all(row.passed for row in rows)


@pytest.mark.slow
def test_they_hold_in_two_processes(python, request):
    request.addfinalizer(partial(multiprocessing.set_executable, sys.executable))
    multiprocessing.set_executable(str(python))
    paths = [str(REFERENCE), *(str(BASELINES / f"{name}.npz") for name in ("ProGrad", "CLIP-LoRA", "PLOTPP"))]
    found = ways.in_two_processes(paths)
    assert set(found) == set(paths) and all(row.passed for rows in found.values() for row in rows)


def test_several_files_at_once(alone, tmp_path, capsys):
    wrong = changed(tmp_path, final_local_proj=np.load(REFERENCE)["final_local_proj"] + 0.1)
    assert main([str(REFERENCE), wrong, str(BASELINES / "KgCoOp.npz")]) == 1
    out = capsys.readouterr().out
    assert f"SOT-GLP: {REFERENCE}" in out and f"SOT-GLP: {wrong}" in out and "KgCoOp: " in out
    assert "as trained: 25 of 25 quantities agree" in out and "as trained: 24 of 25 quantities agree" in out
    assert failed_in(out) == ["final/local_proj"]
    assert main([str(BASELINES / "KgCoOp.npz")]) == 0


@pytest.mark.parametrize("quantity", ["transport_plan", "local_text", "ood/L-MCM/T1", "losses"])
def test_a_change_is_noticed(quantity, tmp_path):
    path = changed(tmp_path, **{quantity: np.load(REFERENCE)[quantity] * 1.01})
    failed = [row.quantity for row in ways.check(ReferenceFile(path))[0] if not row.passed]
    assert failed == [{"losses": "steps/losses"}.get(quantity, quantity)]


@pytest.mark.parametrize("k", [4, 6])
def test_a_wrong_k_fails(k, alone, tmp_path, capsys):
    """It is no reason to call the file unusable."""
    assert main([changed(tmp_path, {"topk": k})]) == 1
    failed = failed_in(capsys.readouterr().out)
    assert {"support_indices", "transport_plan", "probs_local"} <= set(failed)


def test_what_is_not_computed_is_named(alone, tmp_path, capsys):
    assert main([changed(tmp_path, **{"logits_of_another_kind": np.zeros(3)})]) == 0
    assert "unknown quantities, not checked: logits_of_another_kind" in capsys.readouterr().out


def test_the_projection_free_variant_needs_no_projection(tmp_path):
    arrays = {key: value for key, value in np.load(REFERENCE).items() if "local_proj" not in key}
    arrays["trainable"] = np.array(["global_prompt", "local_prompts"])
    np.savez(tmp_path / "free.npz", **arrays)
    rows = {row.quantity: row for row in ways.check(ReferenceFile(tmp_path / "free.npz"))[0]}
    # The start is the same without M; only what is learned differs.
    assert all(rows[name].passed for name in ("probs_local", "transport_plan", "grad/local_prompts"))


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "no.npz").write_text("no")
    np.savez(tmp_path / "half.npz", meta="{}")
    np.savez(tmp_path / "other.npz", meta=json.dumps({"method": "CLIP-Adapter (a bottleneck)"}))
    expected = {"no": "no file of reference numbers", "half": "unusable", "other": "allowed are CoOp, ", "gone": "gone"}
    for name, words in expected.items():
        assert main([str(tmp_path / f"{name}.npz")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and str(tmp_path / name) in line and words in line


def test_a_file_that_lacks_something_is_refused(tmp_path, capsys):
    arrays = dict(np.load(BASELINES / "CoOp.npz"))
    np.savez(tmp_path / "CoOp.npz", **{name: value for name, value in arrays.items() if name != "images"})
    assert main([str(tmp_path / "CoOp.npz")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "images" in line

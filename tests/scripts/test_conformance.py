"""The shipped reference numbers hold, and a change in any would be noticed."""

from pathlib import Path

import numpy as np
import pytest

from scripts import conformance

REFERENCE = Path(__file__).parents[1] / "data" / "sotglp_reference.npz"


def test_reference_numbers_hold(capsys):
    assert conformance.main([str(REFERENCE)]) == 0
    assert "25 of 25 quantities agree" in capsys.readouterr().out


@pytest.mark.parametrize("quantity", ["transport_plan", "local_text", "ood/L-MCM/T1", "final_local_proj"])
def test_a_change_is_noticed(quantity, tmp_path, capsys):
    arrays = dict(np.load(REFERENCE))
    arrays[quantity] = arrays[quantity] * 1.01
    np.savez(tmp_path / "changed.npz", **arrays)
    assert conformance.main([str(tmp_path / "changed.npz")]) == 1
    failed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert failed == [quantity]


def test_the_projection_free_variant_needs_no_projection(tmp_path, capsys):
    arrays = {key: value for key, value in np.load(REFERENCE).items() if "local_proj" not in key}
    arrays["trainable"] = np.array(["global_prompt", "local_prompts"])
    np.savez(tmp_path / "free.npz", **arrays)
    conformance.main([str(tmp_path / "free.npz")])
    lines = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    # The start is the same without M; only what is learned differs.
    assert lines["probs_local"] == lines["transport_plan"] == lines["grad_local_prompts"] == "ok"


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "no.npz").write_text("no")
    assert conformance.main([str(tmp_path / "no.npz")]) == 2
    np.savez(tmp_path / "half.npz", meta="{}")
    assert conformance.main([str(tmp_path / "half.npz")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)

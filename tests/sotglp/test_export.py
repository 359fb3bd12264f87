"""Exported runs: the same probabilities from onnxruntime alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.nn import functional as F

import sotglp
from scripts import export as cli
from sotglp import transport_plan
from sotglp.toolbox import loading
from sotglp.toolbox.classify import Model
from sotglp.toolbox.export import exported_plan, to_onnx


@pytest.fixture(scope="module")
def sot(trained_runs):
    return sotglp.load(trained_runs["calibrated"][0])


@pytest.fixture(scope="module")
def exported(trained_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    assert cli.main([str(trained_runs["calibrated"][0]), "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(exported):
    return Model(exported)


@pytest.mark.slow
def test_the_whole_test_set_has_the_probabilities_of_the_runs_own_test(trained_runs, model, sot):
    """But for images of which two patches tie, to rounding, for the last place in a class's support."""
    _, scores, paths = trained_runs["SOTGLP"]
    assert len(paths) == 2000
    probabilities = np.concatenate([model(paths[i : i + 100])["combined"] for i in range(0, len(paths), 100)])
    off = np.abs(probabilities - scores.numpy())
    others = [path for path, far in zip(paths, (off > 1e-5).any(axis=1), strict=True) if far]
    assert len(others) <= 5 and off.max() < 1e-3
    for path in others:
        ranked = sot.match(sot.preprocess(path)[None]).s[0].sort(dim=0, descending=True).values
        assert (ranked[9] - ranked[10]).min() < 1e-6


@pytest.mark.slow
def test_every_output_is_the_predictors_in_any_company(model, sot, trained_runs):
    paths = trained_runs["SOTGLP"][2][::399]
    expected = sot.predict(paths)
    together, alone = model(paths), [model([path]) for path in paths]
    for name, field in {"combined": "combined", "global": "global_", "local": "local", "ood": "ood"}.items():
        for got in (together[name], np.concatenate([outputs[name] for outputs in alone])):
            np.testing.assert_allclose(got, getattr(expected, field).numpy(), atol=1e-5)


@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_transport_is_solved_however_many_steps_that_takes(eps, tmp_path):
    class Plan(torch.nn.Module):
        def forward(self, s):
            return exported_plan(s, eps)

    def problems(number):
        return 0.1 * torch.randn(number, 3, 10, 4, generator=torch.Generator().manual_seed(number))

    to_onnx(Plan(), (problems(2),), ["plan"], ["s"]).save(str(tmp_path / "plan.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "plan.onnx"), providers=["CPUExecutionProvider"])
    for number in (1, 2, 7):
        (plan,) = session.run(None, {"s": problems(number).numpy()})
        np.testing.assert_allclose(plan, transport_plan(problems(number), eps).numpy(), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(40, 31), (31, 40), (200, 133), (64, 64), (65, 129)])
def test_pixels_are_those_of_the_predictor(model, sot, size):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
    for image in (picture, picture.convert("L"), picture.convert("P")):
        np.testing.assert_allclose(model.preprocess(image), sot.preprocess(image).numpy(), atol=1e-6)


@pytest.mark.slow
def test_the_model_knows_its_run(model, sot, exported):
    assert model.facts["classnames"] == sot.classnames
    assert model.facts["ood_score"] == "GL-MCM" and model.facts["ood_threshold"] == sot.thresholds["GL-MCM"]
    graph = onnx.load(exported / "model.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param  # any number of images
    held = sum(np.prod(tensor.dims) for tensor in graph.initializer)
    tower = sum(weights.numel() for weights in sot.trainer.model.clip.visual.parameters())
    assert held < 1.1 * tower  # no text tower
    assert {node.domain for node in graph.node} <= {""}  # operators of ONNX itself


@pytest.mark.slow
@torch.no_grad()
def test_the_head_gives_the_global_branch(exported, sot, trained_runs):
    with safe_open(exported / "head.safetensors", "pt") as file:
        head, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert set(head) == {"text_global", "text_local", "projection.weight", "image_proj", "logit_scale"}
    settings = json.loads(facts["settings"])
    assert json.loads(facts["classnames"]) == sot.classnames
    assert (settings["TOPK"], settings["EPS"]) == (10, 0.1)
    assert json.loads(facts["pixel_mean"]) == pytest.approx(sot.trainer.model.clip.pixel_mean)
    path = trained_runs["SOTGLP"][2][7]
    class_token, tokens = sot.trainer.model.clip.visual(sot.preprocess(path)[None], "vv")
    expected = sot.predict(path, support=True)
    cosines = torch.einsum("bd,cgd->bcg", F.normalize(class_token @ head["image_proj"], dim=-1), head["text_global"])
    probabilities = (head["logit_scale"] * cosines.mean(dim=-1)).softmax(dim=-1)
    torch.testing.assert_close(probabilities, expected.global_, atol=1e-5, rtol=0)
    patches = F.normalize(tokens @ head["projection.weight"].T @ head["image_proj"], dim=-1)
    label = expected.combined.argmax()
    best = (patches[0] @ head["text_local"][label].T).mean(dim=-1).topk(settings["TOPK"]).indices
    assert set(best.tolist()) == set(expected.support[0].tolist())


@pytest.mark.slow
def test_the_folder_needs_none_of_the_repository(exported, sot, trained_runs, tmp_path):
    path = trained_runs["SOTGLP"][2][0]
    code = (
        "import runpy, sys; del sys.argv[0]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as error: assert error.code == 0\n"
        "assert not {'torch', 'open_clip', 'sotglp', 'dassl'} & set(sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code, "classify.py", str(path)]
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=True)
    expected = sot.predict(path)
    probability = f"{expected.combined.max().item():.1%}"
    assert done.stdout.startswith(f"{path}: {expected.names[0]} {probability}, GL-MCM ")


@pytest.mark.slow
def test_the_exported_program_reports_mistakes_in_a_line_each(exported, trained_runs, tmp_path):
    def classify(*words):
        return subprocess.run([sys.executable, "classify.py", *words], cwd=exported, capture_output=True, text=True)

    assert classify("--help").stdout.startswith("usage: classify.py") and classify("--help").returncode == 0
    path, missing, damaged = str(trained_runs["SOTGLP"][2][0]), str(tmp_path / "no.png"), tmp_path / "note.png"
    damaged.write_text("no image")
    done = classify(missing, path, str(damaged))
    assert done.returncode == 1 and done.stdout.startswith(f"{path}: ") and done.stdout.count("\n") == 1
    assert done.stderr.splitlines() == [
        f"error: cannot read image {missing}: No such file or directory",
        f"error: cannot read image {damaged}: it is no image that Pillow knows",
    ]


@pytest.mark.slow
def test_the_files_are_for_all_to_read(exported):
    usual = exported / "usual"
    usual.touch()
    assert {path.stat().st_mode for path in exported.iterdir() if path.is_file()} == {usual.stat().st_mode}
    usual.unlink()


@pytest.mark.slow
def test_a_cache_is_exported_with_its_images(trained_runs, tmp_path):
    folder, scores, paths = trained_runs["TipAdapterF"]
    assert cli.main([str(folder), "--out", str(tmp_path)]) == 0
    got = Model(tmp_path)(paths[::40])
    assert list(got) == ["combined", "ood"]
    np.testing.assert_allclose(got["combined"], scores.softmax(dim=1)[::40].numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name, score", [("SOTGLP", "L-NegLabel"), ("CoOp", "P-NegLabel")])
def test_words_are_constants_of_the_model(trained_runs, tmp_path, name, score):
    folder, _, paths = trained_runs[name]
    assert cli.main([str(folder), "--out", str(tmp_path), "--score", score, "--quiet"]) == 0
    model = Model(tmp_path)
    expected = sotglp.load(folder).predict(paths[::399], score).ood
    np.testing.assert_allclose(model(paths[::399])["ood"], expected.numpy(), atol=1e-4)
    assert model.facts["ood_score"] == score and model.facts["ood_threshold"] is None


REFUSED = {
    "no run": ({}, "is no run"),
    "image tower": ({"frozen_images": False}, "changes the image tower"),
    "text of each image": ({"encode_text": lambda: None}, "encodes a text for each image"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_cannot_be_exported_is_one_line(trained_runs, tmp_path, monkeypatch, capsys, case):
    changes, message = REFUSED[case]
    folder = trained_runs["CoOp"][0] if changes else tmp_path
    load = loading.load

    def changed(folder):
        predictor = load(folder)
        for name, value in changes.items():
            monkeypatch.setattr(predictor.trainer.model, name, value, raising=False)
        return predictor

    monkeypatch.setattr("sotglp.toolbox.export.load", changed)
    assert cli.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line and not Path(tmp_path, "out").exists()

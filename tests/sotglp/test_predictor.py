"""Trained runs as predictors, in Python and from the command line, moved elsewhere and without their data set."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix

import sotglp
from dassl.finished import FinishedRun
from dassl.utils import UserError
from scripts import predict as cli
from scripts import predictions
from sotglp.toolbox.predictor import joined


@pytest.fixture(scope="module")
def sot(trained_runs):
    return sotglp.load(trained_runs["SOTGLP"][0])


@pytest.fixture(scope="module")
def paths(trained_runs):
    return trained_runs["SOTGLP"][2][::211]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SOTGLP", "CoOp", "TipAdapterF", "ZeroshotCLIP"])
def test_probabilities_are_those_of_the_runs_own_test(trained_runs, name):
    run, scores, paths = trained_runs[name]
    results = json.loads((run / "results.json").read_text())
    if name != "SOTGLP":  # of it all images, of the others some
        scores, paths = scores[::17], paths[::17]
    predictor = sotglp.load(str(run))
    predictions = predictor.predict(paths)
    expected = scores if name == "SOTGLP" else scores.softmax(dim=1)
    torch.testing.assert_close(predictions.combined, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(predictions.combined.sum(dim=1), torch.ones(len(paths)))
    assert predictor.classnames == list(results["metrics"]["per_class_accuracy"])
    assert predictions.names == [predictor.classnames[label] for label in expected.argmax(dim=1)]
    assert predictor.score == ("GL-MCM" if name == "SOTGLP" else "MCM")
    truth = [predictor.classnames[int(path.name[0])] for path in paths]  # files are named <label>_<number>
    if name == "SOTGLP":
        branches = {"": predictions.combined, "_global": predictions.global_, "_local": predictions.local}
        for branch, values in branches.items():
            hits = sum(predictor.classnames[i] == name for i, name in zip(values.argmax(dim=1), truth, strict=True))
            assert 100 * hits / len(paths) == pytest.approx(results["metrics"][f"accuracy{branch}"])
    else:
        assert predictions.global_ is None and predictions.local is None


def test_a_predictor_serves_as_a_classifier_of_scikit_learn(sot, paths):
    predictions, probabilities = sot.predict(paths), sot.predict_proba(paths)
    assert predictions.tolist() == predictions.names == sot.classes_[probabilities.argmax(axis=1)].tolist()
    assert sot.classes_.tolist() == sot.classnames and np.array_equal(probabilities, predictions.combined.numpy())
    truth = [sot.classnames[int(path.name[0])] for path in paths]
    hits = np.mean([name == right for name, right in zip(predictions.names, truth, strict=True)])
    assert accuracy_score(truth, predictions) == hits == (predictions == truth).mean()
    assert np.trace(confusion_matrix(truth, predictions, labels=sot.classes_)) == hits * len(paths)


def test_all_kinds_of_images_are_the_same_image(sot, paths):
    expected = sot.predict(paths[0]).combined
    picture = Image.open(paths[0])
    array = np.asarray(picture.convert("RGB"))
    tensor = sot.preprocess(paths[0])
    one = [picture, array, tensor, str(paths[0]), array[None], tensor[None]]
    for image in one:
        torch.testing.assert_close(sot.predict(image).combined, expected, atol=1e-6, rtol=0)
    mixed = sot.predict([*one, [paths[1]]])
    torch.testing.assert_close(mixed.combined[:6], expected.expand(6, -1), atol=1e-6, rtol=0)
    assert not torch.allclose(mixed.combined[6], expected[0], atol=1e-3)
    grey = np.asarray(picture.convert("L"))
    torch.testing.assert_close(
        sot.predict(grey).combined, sot.predict(np.stack([grey] * 3, axis=-1)).combined, atol=1e-6, rtol=0
    )


def test_an_image_is_predicted_the_same_in_any_company(sot, paths, monkeypatch):
    together = sot.predict(paths, support=True)
    monkeypatch.setattr(sot, "batch_size", 3)
    turned = sot.predict(paths[::-1], support=True)
    alone = [sot.predict(path, support=True) for path in paths]
    for i, one in enumerate(alone):
        for field in ("combined", "global_", "local", "ood", "plan"):
            value = getattr(one, field)[0]
            for other in (getattr(together, field)[i], getattr(turned, field)[-1 - i]):
                torch.testing.assert_close(value, other, atol=2e-6, rtol=0, msg=field)
        assert together.support[i].equal(one.support[0]) and together.names[i] == one.names[0]


def test_no_more_than_a_batch_is_read_ahead(sot, paths, monkeypatch):
    monkeypatch.setattr(sot, "batch_size", 4)
    read, sizes = [], []
    of_batch = sot.predict_batch

    def count(pixels, *arguments):
        sizes.append((len(pixels), len(read)))
        return of_batch(pixels, *arguments)

    monkeypatch.setattr(sot, "predict_batch", count)
    sot.predict(read.append(path) or path for path in paths)
    assert sizes == [(4, 4), (4, 8), (2, 10)] and len(paths) == 10


def test_support_and_plan_are_of_the_predicted_class(sot, paths):
    predictions = sot.predict(paths[:4], support=True)
    match = sot.match(torch.stack([sot.preprocess(path) for path in paths[:4]]))
    labels = predictions.combined.argmax(dim=1)
    for i, label in enumerate(labels):
        best = match.s[i, :, label].topk(10).indices
        assert set(predictions.support[i].tolist()) == set(best.tolist())
        torch.testing.assert_close(predictions.plan[i].sum(dim=1), torch.full((10,), 1 / 10))
        torch.testing.assert_close(predictions.plan[i].sum(dim=0), torch.full((4,), 1 / 4), atol=1e-5, rtol=0)
    assert sot.predict(paths[0]).support is None


def test_thresholds_are_kept_with_the_run(trained_runs, paths, tmp_path):
    run = trained_runs["calibrated"][0]
    calibrated = sotglp.load(run)
    record = json.loads((run / "ood_threshold.json").read_text())
    of_plans = {"PlanLogit", "PlanEntropy", "OffSupport"}
    expected = {"MCM", "MaxLogit", "Energy", "L-MCM", "GL-MCM", *of_plans}
    assert record["images"] == 20 and set(record["thresholds"]) == expected
    ood = calibrated.predict(paths)
    assert ood.is_ood.equal(ood.ood > record["thresholds"]["GL-MCM"])
    energy = calibrated.predict(paths, score="Energy")
    assert energy.is_ood.equal(energy.ood > record["thresholds"]["Energy"]) and not energy.ood.equal(ood.ood)
    assert not any(name.endswith("NegLabel") for name in record["thresholds"]) and "L-NegLabel" in calibrated.scores
    far = calibrated.predict(paths, score="NegLabel")
    assert far.is_ood is None and ((-1 < far.ood) & (far.ood < 0)).all()
    with pytest.raises(OSError):
        calibrated.calibrate("/dev/null")
    gone_on = tmp_path / "run"
    shutil.copytree(run, gone_on)
    (gone_on / "ood_threshold.json").write_text(json.dumps({**record, "epoch": 7}))
    assert sotglp.load(gone_on).thresholds == {} and sotglp.load(gone_on).predict(paths[0]).is_ood is None


@pytest.mark.slow
def test_calibration_sees_the_validation_images_of_the_run(trained_runs, tmp_path):
    """19 of 20 validation images are at or below a threshold, and the 20th above, if no two are alike."""
    root, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(trained_runs["SOTGLP"][0], run)
    predictor = sotglp.load(run).calibrate(str(root))
    trainer = FinishedRun(run).trainer(str(root))
    images = [item.impath for item in trainer.dm.dataset.val]
    predicted = predictor.predict(images)
    assert len(images) == 20 and predicted.is_ood.sum() == 1

    # The temperature of the run's test has the least cross-entropy of these images.
    z, labels = predicted.combined.double().log(), torch.tensor([item.label for item in trainer.dm.dataset.val])
    found = FinishedRun(run).results["metrics"]["temperature"]
    losses = {t: torch.nn.functional.cross_entropy(z / t, labels).item() for t in (0.95 * found, found, 1.05 * found)}
    assert min(losses, key=losses.get) == found


@pytest.mark.parametrize("name", ["SOTGLP", "CoOp", "TipAdapterF", "ZeroshotCLIP"])
def test_calibrated_probabilities_are_of_the_runs_temperature(trained_runs, name):
    run, scores, _ = trained_runs[name]
    rows = FinishedRun(run).predictions()
    temperature = FinishedRun(run).results["metrics"]["temperature"]
    z = scores.double().log() if name == "SOTGLP" else scores.double()  # SOTGLP's scores are probabilities
    expected = (z / temperature).softmax(dim=1).max(dim=1).values
    found = torch.tensor([float(row["p_calibrated"]) for row in rows], dtype=torch.double)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_shared_prompts_serve_other_classes(trained_runs, sot, paths):
    names = ["dog", "shirt", "bag"]
    with pytest.warns(UserWarning, match="SOTGLP shares among classes .N_LOCAL 0"):
        few = sotglp.load(sot.run, names)
    predictions = few.predict(paths)
    assert predictions.combined.shape == (len(paths), 3) and predictions.local is None
    assert predictions.combined.equal(predictions.global_) and predictions.is_ood is None
    with pytest.warns(UserWarning):  # the global branch of the same classes in another order is the same
        turned = sotglp.load(sot.run, sot.classnames[::-1])
    torch.testing.assert_close(turned.predict(paths).combined.flip(1), sot.predict(paths).global_, atol=1e-5, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coop = sotglp.load(trained_runs["CoOp"][0], classnames=["shirt", "bag"])
    assert coop.classnames == ["shirt", "bag"] and coop.predict(paths[0]).combined.shape == (1, 2)
    with pytest.raises(UserError, match="TipAdapterF learned something of each of the run's classes"):
        sotglp.load(trained_runs["TipAdapterF"][0], ["shirt", "bag"])
    with pytest.raises(UserError, match="belongs to the run's own classes"):
        coop.calibrate()


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4, 3)), "uint8"),
        (np.zeros((4, 4, 4), np.uint8), "uint8 of .4, 4, 4."),
        (torch.zeros(3, 5, 5), "floating-point numbers of the shape"),
        ("nowhere.png", "cannot read image nowhere.png"),
        ([], "no images"),
    ],
)
def test_inputs_that_are_no_images_are_refused(sot, image, message):
    with pytest.raises(UserError, match=message):
        sot.predict(image)


def test_requests_a_method_cannot_serve_are_refused(trained_runs, paths):
    coop = sotglp.load(trained_runs["CoOp"][0])
    with pytest.raises(UserError, match='"GL-MCM".*available: MCM, MaxLogit, Energy, NegLabel, P-NegLabel'):
        coop.predict(paths[0], score="GL-MCM")
    with pytest.raises(UserError, match="no support and no transport plan"):
        coop.predict(paths[0], support=True)


def test_folders_that_are_no_runs_are_refused(trained_runs, tmp_path):
    with pytest.raises(ValueError, match="is no run"):
        sotglp.load(tmp_path)
    shutil.copy(trained_runs["SOTGLP"][0] / "config.yaml", tmp_path)
    with pytest.raises(UserError, match="names the classes: give class names"):
        sotglp.load(tmp_path)
    with pytest.raises(UserError, match="one class at least"):
        sotglp.load(trained_runs["CoOp"][0], [])


@pytest.mark.slow
def test_the_library_alone_needs_no_toolbox_and_reports_what_loading_needs(tmp_path):
    (tmp_path / "sotglp").symlink_to(Path(sotglp.__file__).parent)
    code = "import sys, sotglp; assert 'dassl' not in sys.modules; sotglp.load('run')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    line = done.stderr.splitlines()[-1]
    assert f"sotglp.load needs {tmp_path / 'dassl'}, but" in line and line.endswith("call it in another process")


def test_table_csv_and_json_agree(trained_runs, sot, paths, tmp_path, capsys):
    folder = tmp_path / ("a_long_name_of_a_folder_" * 3)
    folder.mkdir()
    for number, path in enumerate(paths[:3]):
        shutil.copy(path, folder / f"{number}.png")
    run, images = str(trained_runs["SOTGLP"][0]), [str(folder), str(paths[3])]
    assert cli.main([run, *images, "--top", "2", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    records = json.loads(captured.out)
    assert captured.err == ""
    expected = sot.predict(paths[:4])
    for i, record in enumerate(records):
        best = expected.combined[i].topk(2)
        assert [entry["class"] for entry in record["classes"]] == [sot.classnames[label] for label in best.indices]
        assert [entry["combined"] for entry in record["classes"]] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert record["ood"] == pytest.approx(expected.ood[i].item(), abs=1e-5) and record["is_ood"] is None
    assert [Path(record["image"]).name for record in records] == ["0.png", "1.png", "2.png", paths[3].name]

    assert cli.main([run, *images, "--top", "2", "--csv"]) == 0
    captured = capsys.readouterr()
    assert "no OOD threshold" in captured.err
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert len(rows) == 8 and [row["rank"] for row in rows] == ["1", "2"] * 4
    assert rows[2]["image"] == records[1]["image"] and rows[2]["class"] == records[1]["classes"][0]["class"]
    assert float(rows[2]["local"]) == pytest.approx(records[1]["classes"][0]["local"])

    assert cli.main([run, *images, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 8 and max(map(len, lines)) <= 100
    entry = records[1]["classes"][0]
    assert lines[4].split()[1:] == [
        *entry["class"].split(),
        *(f"{100 * entry[name]:.1f}" for name in ("combined", "global", "local")),
        f"{records[1]['ood']:.4f}",
    ]


def test_unreadable_images_are_named_and_the_others_predicted(trained_runs, paths, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    assert cli.main([str(trained_runs["CoOp"][0]), str(paths[0]), str(bad), "nowhere.png", "--json", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert [record["image"] for record in json.loads(captured.out)] == [str(paths[0])]
    first, second = captured.err.splitlines()
    assert f"cannot read image {bad}" in first and "cannot read image nowhere.png" in second


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("CoOp", [], "give images or folders of images"),
        ("CoOp", ["x.png", "--top", "0"], "--top must be 1 or more"),
        ("CoOp", ["x.png", "--json", "--csv"], "not allowed with"),
        ("CoOp", ["{empty}"], "holds no images"),
        ("CoOp", ["{image}", "--score", "GL-MCM"], "unknown OOD score"),
        ("TipAdapterF", ["{image}", "--classes", "shirt, bag"], "it predicts no others"),
        ("CoOp", ["{image}", "--classes", "shirt,,bag"], "class names are one or more words"),
        ("CoOp", ["--calibrate"], ""),
        ("nowhere", ["{image}"], "is no run"),
    ],
)
def test_a_mistake_is_one_line(trained_runs, paths, tmp_path, capsys, name, arguments, message):
    run = trained_runs[name][0] if name in trained_runs else tmp_path / name
    arguments = [argument.format(empty=tmp_path, image=paths[0]) for argument in arguments]
    root = ["--root", "/dev/null"] if "--calibrate" in arguments else []
    assert cli.main([str(run), *arguments, *root]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ") and message in line and captured.out == ""


@pytest.fixture
def strange(paths, tmp_path):
    """A folder of images and other files, one deep, one with a name that a spreadsheet would run."""
    for name in ("a/b/1.png", "a/=cmd.png", "a/notes.txt", "@me.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths[0], tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.mark.parametrize("way", ["folder", "pattern", "list", "stdin", "mixed"])
def test_ways_to_give_images(way, strange, tmp_path, monkeypatch):
    expected = [f"{strange}/{name}" for name in ("@me.png", "a/=cmd.png", "a/b/1.png")]
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n".join([*expected, ""]), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(expected)))
    words = {"folder": [str(strange)], "pattern": [f"{strange}/**/*.png"], "list": [f"@{tmp_path}/list.txt"],
             "stdin": ["-"], "mixed": [expected[0], f"{strange}/a"]}[way]  # fmt: skip
    monkeypatch.chdir(strange)
    found, said = cli.paths_of(words)
    assert found == expected
    assert said == (["left out: 1 file that is no image"] if way in ("folder", "mixed") else [])
    assert cli.paths_of(["@me.png", "@me.png"]) == (
        ["@me.png"] * 2,
        ["given more than once, and predicted as often: 1 image"],
    )
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png")
    with pytest.raises(UserError, match="is not valid UTF-8: rename it"):
        cli.paths_of([f"@{tmp_path}/latin.txt"])
    for wrong in ("@nowhere.txt", "*.gif", f"{tmp_path}/empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="cannot read the list nowhere.txt|holds no images"):
            cli.paths_of([wrong])


def test_cells_that_a_spreadsheet_would_run(trained_runs, strange, monkeypatch, capsys):
    monkeypatch.chdir(strange / "a")
    assert cli.main([str(trained_runs["CoOp"][0]), "=cmd.png", "--csv", "--quiet", "--score", "MaxLogit"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["image"] == "'=cmd.png" and float(row["MaxLogit"]) < 0  # numbers stay numbers
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1"):
        assert predictions.harmless(text) == f"'{text}"
    assert [predictions.harmless(cell) for cell in ("a=b", -1.5, None)] == ["a=b", -1.5, None]


@pytest.mark.parametrize("form, expected", [([], 2), (["--csv"], 1), (["--json"], 1)])
def test_without_a_readable_image_the_output_is_empty(form, expected, trained_runs, capsys):
    assert cli.main([str(trained_runs["CoOp"][0]), "nowhere.png", "--quiet", *form]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: cannot read image nowhere.png: there is no such file\n"
    lines = captured.out.splitlines()
    assert len(lines) == expected and (form != ["--json"] or json.loads(captured.out) == [])


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_thousands_of_images_are_predicted_in_constant_memory(form, trained_runs, sot, paths, monkeypatch, capsys):
    """Each batch is printed before the next one is read: nothing is kept of it."""
    monkeypatch.setattr(sotglp, "load", lambda run, names: sot)
    monkeypatch.setattr(sot, "batch_size", 4)
    monkeypatch.setattr(sot, "predict", lambda pixels, score: few(len(pixels)))
    read, printed = [], []
    pixels = sot.preprocess(paths[0])
    monkeypatch.setattr(sot, "preprocess", lambda path: read.append(path) or pixels)
    template = sot.predict_batch(pixels[None])

    def few(n):
        printed.append((len(read), capsys.readouterr().out.count(str(paths[0]))))
        return joined([template] * n)

    assert cli.main([str(trained_runs["SOTGLP"][0]), *[str(paths[0])] * 40, "--quiet", *form]) == 0
    assert [number for number, _ in printed] == list(range(4, 41, 4))
    if form:
        assert [number for _, number in printed] == [0] + [4] * 9


def test_a_phones_picture_is_predicted_upright_if_the_run_says_so(sot, paths, tmp_path, monkeypatch):
    picture, exif = Image.open(paths[0]).convert("RGB"), Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert not sot.preprocess(tmp_path / "turned.png").equal(sot.preprocess(picture))
    cfg = sot.trainer.cfg.clone()
    cfg.defrost()
    cfg.INPUT.EXIF = "on"
    monkeypatch.setattr(sot.trainer, "cfg", cfg)
    assert sot.preprocess(tmp_path / "turned.png").equal(sot.preprocess(picture)) and sot.remarks["turned"] == 1

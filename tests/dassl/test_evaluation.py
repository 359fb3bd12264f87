"""The evaluator against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from dassl.evaluation import build_evaluator
from dassl.utils import UserError

NAMES = {0: "cat", 1: "dog", 2: "crane", 3: "crane", 4: "absent"}


def evaluate(cfg):
    evaluator = build_evaluator(cfg, lab2cname=NAMES)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=generator)
    scores = torch.randn(60, 5, generator=generator)
    scores[torch.arange(60), labels] += 1
    for start in range(0, 60, 25):  # with an incomplete last batch
        evaluator.process(scores[start : start + 25], labels[start : start + 25])
    return evaluator, labels.numpy(), scores.argmax(dim=1).numpy()


def test_results_are_sklearns(make_cfg, capsys):
    evaluator, y_true, y_pred = evaluate(make_cfg())
    results = evaluator.evaluate()
    accuracy = 100 * accuracy_score(y_true, y_pred)
    f1 = 100 * f1_score(y_true, y_pred, average="macro", labels=np.unique(y_true))
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert list(results.values()) == pytest.approx([accuracy, 100 - accuracy, f1])
    recall = 100 * recall_score(y_true, y_pred, average=None, labels=range(4))
    names = ["cat", "dog", "crane (2)", "crane (3)"]  # two classes of one name stay apart
    assert evaluator.results == {
        **results,
        "per_class_accuracy": pytest.approx(dict(zip(names, recall, strict=True))),
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "=> result",
        "* total: 60",
        f"* correct: {(y_true == y_pred).sum()}",
        f"* accuracy: {accuracy:.1f}%",
        f"* error: {100 - accuracy:.1f}%",
        f"* macro_f1: {f1:.1f}%",
    ]


def test_per_class_lines_and_confusion_matrix(make_cfg, tmp_path, capsys):
    cfg = make_cfg({"TEST.PER_CLASS_RESULT": True, "TEST.COMPUTE_CMAT": True, "OUTPUT_DIR": str(tmp_path)})
    evaluator, y_true, y_pred = evaluate(cfg)
    results = evaluator.evaluate()
    recall = recall_score(y_true, y_pred, average=None, labels=range(4))
    assert results["perclass_accuracy"] == pytest.approx(100 * recall.mean())
    dogs = y_true == 1
    correct = (y_pred[dogs] == 1).sum()
    out = capsys.readouterr().out
    assert f"* class: 1 (dog)\ttotal: {dogs.sum()}\tcorrect: {correct}\tacc: {100 * recall[1]:.1f}%\n" in out
    assert f"* average: {100 * recall.mean():.1f}%\n" in out
    saved = torch.load(tmp_path / "cmat.pt", weights_only=True)
    assert saved.numpy() == pytest.approx(confusion_matrix(y_true, y_pred, normalize="true"))


def test_reset_forgets_and_nothing_cannot_be_evaluated(make_cfg):
    evaluator, _, _ = evaluate(make_cfg())
    evaluator.reset()
    with pytest.raises(UserError, match="no images"):
        evaluator.evaluate()


def test_unknown_evaluator(make_cfg):
    with pytest.raises(UserError, match="do you mean Classification"):
        build_evaluator(make_cfg({"TEST.EVALUATOR": "Clasification"}))


@pytest.mark.parametrize("as_probabilities", [False, True])
def test_a_temperature_changes_probabilities_alone(make_cfg, as_probabilities):
    scores = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels, paths = torch.arange(20) % 4, [f"{i}.png" for i in range(20)]
    evaluator = build_evaluator(make_cfg(), lab2cname=NAMES)
    evaluator.process(scores, labels)
    plain = evaluator.predictions(paths)
    evaluator.reset()
    evaluator.temperature = 2.5
    evaluator.process(scores.softmax(dim=1) if as_probabilities else scores, labels)
    head, *rows = evaluator.predictions(paths)
    assert [row[:3] for row in rows] == [row[:3] for row in plain[1:]] and head == [*plain[0], "p_calibrated"]
    expected = (scores.double() / 2.5).softmax(dim=1).max(dim=1).values.tolist()
    assert [float(row[5]) for row in rows] == pytest.approx(expected, 1e-4)
    evaluator.evaluate()
    assert evaluator.results["temperature"] == 2.5
    evaluator.reset()
    assert evaluator.temperature is None  # it belonged to that test


@pytest.mark.parametrize("as_probabilities", [False, True])
def test_predictions_are_those_that_the_accuracy_counts(make_cfg, as_probabilities):
    evaluator = build_evaluator(make_cfg(), lab2cname=NAMES)
    scores = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels, expected = torch.arange(20) % 4, scores.double().softmax(dim=1)
    evaluator.process(expected.float() if as_probabilities else scores, labels)
    paths = [f"{i}.png" for i in range(20)]
    _, *rows = evaluator.predictions(paths)
    assert [row[0] for row in rows] == paths
    names = ["cat", "dog", "crane (2)", "crane (3)", "absent"]
    best = scores.argmax(dim=1)
    for i, (_, name, predicted, p, q) in enumerate(rows):
        assert (name, predicted) == (names[labels[i]], names[best[i]])
        assert (float(p), float(q)) == pytest.approx((expected[i, labels[i]].item(), expected[i].max().item()), 1e-4)
    accuracy = evaluator.evaluate()["accuracy"]
    assert 100 * np.mean([row[1] == row[2] for row in rows]) == pytest.approx(accuracy)
    assert evaluator.predictions(paths[1:]) == []  # which image is which is not known

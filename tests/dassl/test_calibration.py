"""Calibration by hand, and against scikit-learn and statsmodels."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss
from statsmodels.discrete.discrete_model import Logit

from dassl.metrics import expected_calibration_error, learn_temperature, reliability
from dassl.metrics.calibration import BINS


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_the_error_of_four_predictions():
    """Bins of 1/15: 0.95 and 0.94 are in the last, accuracy 1/2; 0.5 and 0.52 in the eighth, accuracy 1."""
    confidences, hits = [0.95, 0.94, 0.5, 0.52], [1, 0, 1, 1]
    number, confidence, accuracy = reliability(confidences, hits)
    assert number.tolist() == [2, 2] and accuracy.tolist() == [1, 0.5]
    assert confidence.tolist() == pytest.approx([0.51, 0.945])
    assert expected_calibration_error(confidences, hits) == pytest.approx(100 * (0.49 + 0.445) / 2)
    assert expected_calibration_error([1.0, 0.2], [1, 0]) == pytest.approx(100 * (0 + 0.2) / 2)
    assert expected_calibration_error([0.95, 0.95, 0.5], [1, 1, 0]) == pytest.approx(100 * (2 * 0.05 + 0.5) / 3)
    # k / 15 closes its interval, so 2 / 15 is not in that of 0.14.
    assert expected_calibration_error([2 / 15, 0.14], [1, 0]) == pytest.approx(100 * (13 / 15 + 0.14) / 2)
    assert reliability([k / BINS for k in range(1, BINS + 1)], [1] * BINS)[0].tolist() == [1] * BINS


def test_the_diagram_is_scikit_learns():
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.2, 1, 500)
    hits = generator.uniform(size=500) < confidences**2
    number, confidence, accuracy = reliability(confidences, hits)
    expected = calibration_curve(hits, confidences, n_bins=BINS)
    np.testing.assert_allclose([accuracy, confidence], expected)
    assert number.sum() == 500


def test_of_two_classes_the_temperature_is_statsmodels_logit():
    """softmax(z / T) of the second class is the logistic function of (z1 - z0) / T: a logit with the slope 1 / T."""
    generator = np.random.default_rng(1)
    z = 3 * generator.normal(size=(300, 2))
    labels = (generator.uniform(size=300) < softmax(z / 2.5)[:, 1]).astype(int)
    slope = Logit(labels, z[:, 1:] - z[:, :1]).fit(disp=False).params[0]
    assert learn_temperature(softmax(z), labels) == pytest.approx(1 / slope, rel=1e-3)


def test_the_temperature_has_the_least_log_loss_and_has_bounds():
    generator = np.random.default_rng(2)
    z = generator.normal(size=(200, 5))
    labels = [generator.choice(5, p=p) for p in softmax(z / 0.4)]
    found = learn_temperature(softmax(z), labels)
    losses = {t: log_loss(labels, softmax(z / t)) for t in (found, 0.97 * found, 1.03 * found)}
    assert min(losses, key=losses.get) == found
    assert learn_temperature(softmax(5 * z), z.argmax(axis=1)) == pytest.approx(1 / 20, rel=1e-3)  # all are right
    assert learn_temperature(softmax(5 * z), z.argmin(axis=1)) == pytest.approx(20, rel=1e-3)
    assert learn_temperature([[1.0, 0.0], [1.0, 0.0]], [0, 1]) == pytest.approx(20, rel=1e-3)  # a probability of 0

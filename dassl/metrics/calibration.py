"""How well predicted probabilities fit the share of right predictions."""

import numpy as np

BINS = 15  # of equal width, as in https://arxiv.org/abs/1706.04599
SMALLEST = 1e-30  # a probability, so that its logarithm is finite


def learn_temperature(probabilities, labels):
    """Return the temperature T with the least cross-entropy of softmax(log p / T), between 1/20 and 20.

    With p = softmax(z), that is softmax(z / T): one number for all images, which changes no prediction
    (https://arxiv.org/abs/1706.04599, section 4.2).

    Args:
        probabilities: Array p (n, C) of images that neither learned the model nor test it.
        labels: (n,) of them.
    """
    from scipy.optimize import minimize_scalar  # here, because it takes a third of a second
    from scipy.special import logsumexp

    z = np.log(np.maximum(np.asarray(probabilities, float), SMALLEST))
    of_truth = z[np.arange(len(z)), np.asarray(labels)]

    def cross_entropy(log_t):
        beta = np.exp(-log_t)  # 1 / T; the cross-entropy is convex in it, so a minimum is the only one
        return np.mean(logsumexp(beta * z, axis=1) - beta * of_truth)

    limit = np.log(20)
    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-limit, limit), method="bounded").x))


def reliability(confidences, hits):
    """Return the reliability diagram of predictions: arrays (number, mean confidence, accuracy), (b,) each.

    They are of the b intervals (0, 1/BINS], (1/BINS, 2/BINS], ... that hold a confidence.

    Args:
        confidences: (n,) probabilities of the predicted classes.
        hits: (n,) whether these are right.
    """
    confidences, hits = np.asarray(confidences, float), np.asarray(hits, float)
    place = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    number = np.bincount(place, minlength=BINS)
    held = number > 0
    means = [np.bincount(place, values, BINS)[held] / number[held] for values in (confidences, hits)]
    return number[held], *means


def expected_calibration_error(confidences, hits):
    """Return the ECE in %: the mean distance of confidence and accuracy in the intervals of `reliability`.

    Each interval counts as often as it has predictions. The arguments are those of `reliability`.
    """
    number, confidence, accuracy = reliability(confidences, hits)
    return 100 * float(np.average(np.abs(confidence - accuracy), weights=number))

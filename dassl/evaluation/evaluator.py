"""Evaluators: the results of a model on a test set."""

import os.path as osp
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import torch

from dassl.utils import UserError, save_tensors

from .build import EVALUATOR_REGISTRY

PREDICTIONS = ("path", "class", "predicted", "p_class", "p_predicted")  # columns of predictions.csv
CALIBRATED = "p_calibrated"  # one more, p_predicted at the learned temperature, if there is one


class EvaluatorBase:
    """Base of the evaluators: it takes the outputs of a test set batch by batch, then computes the results.

    Each evaluator writes `reset`, `process` and `evaluate`.

    Attributes:
        results: The results of the last `evaluate()` in plain numbers, strings and containers, as results.json holds
            them. A trainer may add its own.
        temperature: T of the probabilities softmax(scores / T) that a trainer learned on validation images, after
            `reset()`; None without it.
    """

    temperature = None

    def __init__(self, cfg):
        self.cfg = cfg
        self.results = {}

    def reset(self):
        """Forget all batches."""
        raise NotImplementedError

    def process(self, mo, gt):
        """Add a batch: the model's output `mo` and the ground truth `gt`."""
        raise NotImplementedError

    def evaluate(self):
        """Return an OrderedDict {name: value}; the first value decides which model is the best."""
        raise NotImplementedError

    def predictions(self, paths):
        """Return the rows of predictions.csv: the names of the columns, then a row for each image.

        Args:
            paths: Paths of the images in the order of the batches.

        Returns:
            A list of rows; empty if the evaluator keeps no predictions.
        """
        return []


def probabilities(scores):
    """Return scores (B, C) as probabilities: their softmax, unless they are probabilities already."""
    scores = scores.detach().float()
    already = (scores >= 0).all() and (scores.sum(dim=1) - 1).abs().max() < 1e-3
    return scores if already else scores.softmax(dim=1)


def at_temperature(p, temperature):
    """Return probabilities p = softmax(z), (B, C), as softmax(z / temperature)."""
    return (p.clamp(min=torch.finfo(p.dtype).tiny).log() / temperature).softmax(dim=1)


def unique_names(lab2cname):
    """Return {label: class name}, with the label added to names that classes share, as some do in ImageNet."""
    times = Counter(map(str, lab2cname.values()))
    return {label: f"{name} ({label})" if times[str(name)] > 1 else str(name) for label, name in lab2cname.items()}


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate, macro F1 over the classes that have images, and accuracy of each class, all in %.

    Args:
        cfg: The configuration.
        lab2cname: {label: class name}; without it, labels replace the names.
        **kwargs: Ignored.
    """

    def __init__(self, cfg, lab2cname=None, **kwargs):
        super().__init__(cfg)
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self):
        # Evaluators of other repositories derive from this one and read these names.
        self._correct = self._total = 0
        self._y_true, self._y_pred = [], []
        self._per_class_res = defaultdict(list)  # {label: [1 for a hit, 0 for a miss]}
        self._likely = []  # [probability of the label, probability of the prediction] for each image
        self._calibrated = []  # probability of the prediction at the temperature
        self.temperature = None

    def process(self, mo, gt):
        """Add a batch of scores (B, C) and labels (B,)."""
        truth, predicted = gt.tolist(), mo.argmax(dim=1).tolist()
        hits = [int(a == b) for a, b in zip(truth, predicted, strict=True)]
        self._correct += sum(hits)
        self._total += len(hits)
        self._y_true.extend(truth)
        self._y_pred.extend(predicted)
        for label, hit in zip(truth, hits, strict=True):
            self._per_class_res[label].append(hit)
        both, p = torch.tensor([truth, predicted], device=mo.device).T, probabilities(mo)
        self._likely += p.gather(1, both).tolist()
        if self.temperature is not None:
            self._calibrated += at_temperature(p, self.temperature).gather(1, both[:, 1:]).flatten().tolist()

    def evaluate(self):
        """Print and return the results; `results` also has the accuracy of each class.

        Raises:
            UserError: There were no images.
        """
        from sklearn.metrics import confusion_matrix, f1_score  # here, because it takes a second

        if not self._total:
            raise UserError("the split to evaluate has no images")
        accuracy = 100.0 * self._correct / self._total
        labels = np.unique(self._y_true)
        macro_f1 = 100.0 * float(f1_score(self._y_true, self._y_pred, average="macro", labels=labels))
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=macro_f1)
        decimals = self.cfg.TEST.DECIMALS
        print(
            "=> result\n"
            f"* total: {self._total:,}\n"
            f"* correct: {self._correct:,}\n"
            f"* accuracy: {accuracy:.{decimals}f}%\n"
            f"* error: {results['error_rate']:.{decimals}f}%\n"
            f"* macro_f1: {macro_f1:.{decimals}f}%"
        )

        by_label = sorted(self._per_class_res.items())
        names = unique_names(self._lab2cname)
        per_class = {names.get(label, str(label)): 100.0 * sum(hits) / len(hits) for label, hits in by_label}
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = float(np.mean(list(per_class.values())))
            print("=> per-class result")
            for label, hits in by_label:
                print(
                    f"* class: {label} ({self._name(label)})\ttotal: {len(hits):,}\t"
                    f"correct: {sum(hits):,}\tacc: {100 * sum(hits) / len(hits):.{decimals}f}%"
                )
            print(f"* average: {results['perclass_accuracy']:.{decimals}f}%")
        if self.cfg.TEST.COMPUTE_CMAT:
            fpath = osp.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            save_tensors(torch.from_numpy(confusion_matrix(self._y_true, self._y_pred, normalize="true")), fpath)
            print(f"Confusion matrix is saved to {fpath}")

        self.results = {**results, "per_class_accuracy": per_class}
        if self.temperature is not None:
            self.results["temperature"] = self.temperature
        return results

    def predictions(self, paths):
        """Return rows of path, class, predicted class and their probabilities; none if paths are missing.

        With a temperature, the last column is the probability of the predicted class at it.
        """
        if not len(paths) == len(self._y_true) == len(self._likely):
            return []
        names = {label: str(label) for label in {*self._y_true, *self._y_pred}} | unique_names(self._lab2cname)
        numbers = [*zip(*self._likely, strict=True), self._calibrated]
        columns = [column for column in numbers if len(column)]
        head = [*PREDICTIONS, CALIBRATED][: 3 + len(columns)]
        labels = [[names[label] for label in column] for column in (self._y_true, self._y_pred)]
        texts = [[f"{p:.6g}" for p in column] for column in columns]
        return [head, *zip(paths, *labels, *texts, strict=True)]

    def _name(self, label):
        return str(self._lab2cname.get(label, label))

"""What is measured on a test set."""

import os.path as osp
from collections import OrderedDict

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, f1_score

from dassl.utils import UserError

from .build import EVALUATOR_REGISTRY


class EvaluatorBase:
    """Sees the outputs of a test set batch by batch, then tells the results.

    `results` holds those of the last `evaluate()` in plain numbers, containers and strings (it is written
    as JSON); a trainer may add its own.
    """

    def __init__(self, cfg):
        self.cfg = cfg
        self.results = {}

    def reset(self):
        raise NotImplementedError

    def process(self, mo, gt):
        """Add a batch: model output `mo` and ground truth `gt`."""
        raise NotImplementedError

    def evaluate(self):
        """Return an OrderedDict {name: value}; the first is the one a model is chosen by."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1 over the classes present, in %, and the accuracy of each class.

    Args:
        lab2cname: {label: class name}; without it labels stand for names.
    """

    def __init__(self, cfg, lab2cname=None, **kwargs):
        super().__init__(cfg)
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self):
        self._y_true, self._y_pred = [], []

    def process(self, mo, gt):
        """Add a batch of scores (B, C) and labels (B,)."""
        self._y_true.extend(gt.tolist())
        self._y_pred.extend(mo.argmax(dim=1).tolist())

    def evaluate(self):
        """Print the results and return them; `results` gets them too, with the accuracies by class.

        Raises:
            UserError: there was no image.
        """
        if not self._y_true:
            raise UserError("the split to evaluate has no images")
        y_true, y_pred = np.array(self._y_true), np.array(self._y_pred)
        hits = y_true == y_pred
        labels = np.unique(y_true)
        accuracy = 100.0 * hits.mean().item()
        macro_f1 = 100.0 * float(f1_score(y_true, y_pred, average="macro", labels=labels))
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=macro_f1)
        print(
            "=> result\n"
            f"* total: {len(hits):,}\n"
            f"* correct: {hits.sum():,}\n"
            f"* accuracy: {accuracy:.2f}%\n"
            f"* error: {results['error_rate']:.2f}%\n"
            f"* macro_f1: {macro_f1:.2f}%"
        )

        by_label = {label: hits[y_true == label] for label in labels.tolist()}
        per_class = {self._unique_name(label): 100.0 * h.mean().item() for label, h in by_label.items()}
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = float(np.mean(list(per_class.values())))
            print("=> per-class result")
            for label, h in by_label.items():
                print(
                    f"* class: {label} ({self._name(label)})\ttotal: {len(h):,}\t"
                    f"correct: {h.sum():,}\tacc: {100 * h.mean():.2f}%"
                )
            print(f"* average: {results['perclass_accuracy']:.2f}%")
        if self.cfg.TEST.COMPUTE_CMAT:
            fpath = osp.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            torch.save(torch.from_numpy(confusion_matrix(y_true, y_pred, normalize="true")), fpath)
            print(f"Confusion matrix is saved to {fpath}")

        self.results = {**results, "per_class_accuracy": per_class}
        return results

    def _name(self, label):
        return str(self._lab2cname.get(label, label))

    def _unique_name(self, label):
        """The class name; with the label where classes share it (ImageNet has such names)."""
        name = self._name(label)
        shared = list(self._lab2cname.values()).count(name) > 1
        return f"{name} ({label})" if shared else name

"""OOD detection of a trained run: scores of its own images and of OOD images, and how well they separate the two."""

from collections import defaultdict

import numpy as np
import torch
from tqdm import tqdm

from dassl.metrics import auroc, fpr_at_95, threshold_at_95
from dassl.utils import UserError
from scripts.ood_sets import METRICS, SCORES, far_and_near

LAWS = dict(zip(METRICS, (auroc, fpr_at_95), strict=True))
BINS = 40  # of a histogram


@torch.no_grad()
def score_images(trainer, batches, temperature, name):
    """Return {score: array (images,)} of the images of batches, in float32: half precision makes ties.

    Args:
        trainer: a CLIPTrainer in evaluation mode.
        batches: iterable of batches of test images.
        temperature: softmax temperature of MCM, L-MCM and GL-MCM.
        name: name of the images in the progress bar and the error.

    Raises:
        UserError: No image can be read.
    """
    scores = defaultdict(list)
    for batch in tqdm(batches, desc=name, leave=False, disable=None):
        features = trainer.features(trainer.parse_batch_test(batch)[0])
        for score, values in trainer.ood_scores(trainer.match(features), temperature, features).items():
            scores[score].append(values.cpu())
    if not scores:
        raise UserError(f"no image of {name} can be read")
    return {score: torch.cat(scores[score]).numpy() for score in SCORES if score in scores}


def histogram(inside, outside):
    """Return the counts of in-distribution and OOD scores in BINS bins of equal width, and the threshold of FPR95."""
    # float64, as scores may differ in the last digit of a float32 alone.
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    both = np.concatenate([inside, outside])
    low, high = float(both.min()), float(both.max())
    counts = {name: np.histogram(x, BINS, (low, high))[0].tolist() for name, x in (("in", inside), ("out", outside))}
    return {"low": low, "high": high, **counts, "threshold": float(threshold_at_95(inside))}


def separated(inside, outsides):
    """Return how well scores separate in-distribution images from each OOD set, on average over far and near sets.

    Args:
        inside: {score: array} of the in-distribution images.
        outsides: {set: {score: array}}.

    Returns:
        {"sets": {set: {score: {metric: value}}}, "average": {score: {metric: value}}}; the average is over the far
        sets, and if there are near ones (datasets.ood), theirs is "near". Without far sets both are the same.
    """
    sets = {
        name: {score: {metric: law(inside[score], outside[score]) for metric, law in LAWS.items()} for score in inside}
        for name, outside in outsides.items()
    }
    far, near = far_and_near(sets)

    def average(names):
        return {
            score: {metric: sum(sets[name][score][metric] for name in names) / len(names) for metric in METRICS}
            for score in inside
        }

    return {"sets": sets, "average": average(far or near), **({"near": average(near)} if near else {})}


@torch.no_grad()
def evaluate(trainer, sets, temperature=1.0, shifted=()):
    """Return the content of ood.json.

    Args:
        trainer: a CLIPTrainer in evaluation mode; its model reads patches afterwards.
        sets: {name: list of Datum} of the OOD sets.
        temperature: softmax temperature of MCM, L-MCM and GL-MCM.
        shifted: list of Datum of other pictures of the run's classes. The full spectrum of in-distribution images holds
            them, too (Yang et al., arXiv 2204.05306).

    Raises:
        UserError: An image cannot be read.
    """
    cfg, model = trainer.cfg, trainer.model
    model.local = model.local or "value"
    trainer.text = model.encode_text()  # once for all images
    split = trainer.split_to_evaluate()

    def scores_of(items, name):
        return score_images(trainer, trainer.encoded(trainer.loader_of(items)), temperature, name)

    inside = score_images(trainer, trainer.batches_to_evaluate(split), temperature, "in-distribution")
    outsides = {name: scores_of(items, name) for name, items in sets.items()}
    images = {"in-distribution": inside, **outsides}
    results = separated(inside, outsides)
    if shifted:
        images["covariate-shifted"] = other = scores_of(shifted, "covariate-shifted")
        full = {score: np.concatenate([inside[score], other[score]]) for score in inside}
        results["full spectrum"] = separated(full, outsides)
    return {
        "temperature": temperature,
        **results,
        "histograms": {
            score: histogram(inside[score], np.concatenate([outside[score] for outside in outsides.values()]))
            for score in inside
        },
        "images": {name: len(next(iter(scores.values()))) for name, scores in images.items()},
        "split": split,
        "patches": model.local if "L-MCM" in inside else None,
        "dataset": cfg.DATASET.NAME,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
    }

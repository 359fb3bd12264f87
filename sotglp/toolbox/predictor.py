"""A trained run as a predictor: images in, class names with probabilities out. It needs no data set.

Letters: n images of S x S pixels (after preprocessing) or H x W (before), C classes, K patches of a support, N prompts.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dassl.data.data_manager import reading
from dassl.data.datasets import build_dataset
from dassl.data.transforms import build_transform
from dassl.metrics import threshold_at_95
from dassl.plugins import load_plugins
from dassl.utils import (
    UserError,
    check_availability,
    one_line_warnings,
    read_image,
    read_json,
    write_json,
)
from dassl.utils.images import to_rgb
from sotglp.features import seeded
from sotglp.interface import ImageFeatures
from sotglp.matching import Matched
from sotglp.scores import Scores
from sotglp.toolbox.trainer import CLIPTrainer

THRESHOLDS = "ood_threshold.json"  # in the run's folder
PREFERRED = ("GL-MCM", "MCM", "L-MCM")  # OOD scores; the first that a method has is its default
OneImage = str | Path | Image.Image | np.ndarray | torch.Tensor


class Predictions(np.ndarray):
    """The names (n,) of the predicted classes of n images, an array as scikit-learn's classifiers return.

    Its attributes are on the CPU, and None for what a method does not have. Parts of the array are names alone.

    Attributes:
        names: the names as a list.
        combined: (n, C) probabilities of the classes, in the order of Predictor.classnames.
        global_: (n, C) those of the global branch alone.
        local: (n, C) those of the local branch alone.
        ood: (n,) the larger, the more out-of-distribution.
        is_ood: (n,) whether ``ood`` is above the threshold, if there is one.
        support: (n, K) patches of the predicted class's support, on request.
        plan: (n, K, N) share of each of them that each local prompt takes, on request.
    """

    names: list[str]
    combined: torch.Tensor
    global_: torch.Tensor | None
    local: torch.Tensor | None
    ood: torch.Tensor
    is_ood: torch.Tensor | None
    support: torch.Tensor | None
    plan: torch.Tensor | None

    def __new__(cls, names: list[str], **columns: torch.Tensor | None) -> "Predictions":
        predictions = np.array(names).view(cls)
        vars(predictions).update(names=names, **columns)
        return predictions


def joined(parts: list[Predictions]) -> Predictions:
    """Return the predictions of several batches as one."""
    columns = {name: [vars(part)[name] for part in parts] for name in vars(parts[0])}
    names = [name for names in columns.pop("names") for name in names]
    return Predictions(names, **{key: None if v[0] is None else torch.cat(v) for key, v in columns.items()})


class Predictor:
    """Predicts with a trained run; ``load`` builds it.

    Args:
        run: the run's folder.
        trainer: with the trained model, in evaluation mode.
        epoch: of the weights.
        of_run: whether the classes are the run's own.

    Attributes:
        classnames: the C names.
        scores: names of the OOD scores that the method has (sotglp.scores).
        score: name of the default one.
        thresholds: {OOD score: threshold that keeps 95 % of the run's validation images}; empty before ``calibrate``,
            and for other classes than the run's.
        remarks: {key of dassl.utils.images.REMARKS: images read so far that it applies to}.
    """

    def __init__(self, run: Path, trainer: CLIPTrainer, epoch: int | None, of_run: bool) -> None:
        self.run, self.trainer, self.epoch, self.of_run = run, trainer, epoch, of_run
        self.classnames = list(trainer.lab2cname.values())
        self.remarks = Counter[str]()
        self.batch_size = trainer.cfg.DATALOADER.TEST.BATCH_SIZE
        self.transform = build_transform(trainer.cfg, is_train=False)
        with torch.no_grad(), trainer.precision.autocast():
            self.text = trainer.text = trainer.model.encode_text()  # once for all images
        size = trainer.model.clip.visual.image_size
        scores = self.scores_of(torch.zeros(1, 3, size, size))
        self.scores = list(scores)
        self.score = next(name for name in PREFERRED if name in scores)
        self.thresholds = self.read_thresholds()

    @property
    def classes_(self) -> np.ndarray:
        """The C names as an array, as scikit-learn's classifiers have them."""
        return np.array(self.classnames)

    @one_line_warnings()
    def predict(
        self, images: OneImage | Iterable[Any], score: str | None = None, support: bool = False, quiet: bool = True
    ) -> Predictions:
        """Predict each image on its own: neither the number nor the order of the images changes its prediction.

        Args:
            images: one image or a list of them: paths, PIL images, uint8 arrays (H, W), (H, W, 3) or (n, H, W, 3),
                preprocessed tensors (3, S, S) or (n, 3, S, S), or a mix. Memory holds one batch at a time.
            score: name of the OOD score; ``self.score`` if None.
            support: also return the patches and the transport plan of the predicted class.
            quiet: show no progress bar.

        Raises:
            UserError: an image cannot be read, there is none, or the method has no such score or no plan.
        """
        parts = [self.predict_batch(batch, score, support) for batch in tqdm(self.batches(images), disable=quiet)]
        if not parts:
            raise UserError("there are no images to predict")
        return joined(parts)

    def predict_proba(self, images: OneImage | Iterable[Any]) -> np.ndarray:
        """Return the probabilities (n, C) of ``classes_``; images as in ``predict``."""
        return self.predict(images).combined.numpy()

    @torch.no_grad()
    def predict_batch(self, pixels: torch.Tensor, score: str | None = None, support: bool = False) -> Predictions:
        """Predict preprocessed images (n, 3, S, S); arguments as in ``predict``."""
        features, match = self.features_and_match(pixels)
        probabilities = {name: values.cpu() for name, values in self.trainer.probabilities(match).items()}
        scores = self.trainer.ood_scores(match, features=features)
        score = score or self.score
        check_availability(score, scores, "OOD score of this method")
        ood, threshold = scores[score].cpu(), self.thresholds.get(score)
        labels = probabilities["combined"].argmax(dim=1)
        kept, plan = of_class(match, labels) if support else (None, None)
        return Predictions(
            [self.classnames[label] for label in labels.tolist()],
            combined=probabilities["combined"],
            global_=probabilities.get("global"),
            local=probabilities.get("local"),
            ood=ood,
            is_ood=None if threshold is None else ood > threshold,
            support=kept,
            plan=plan,
        )

    def features_and_match(self, pixels: torch.Tensor) -> tuple[ImageFeatures, Matched]:
        """Return the features of preprocessed images (n, 3, S, S), and how they match the classes."""
        with torch.no_grad(), self.trainer.precision.autocast():
            features = self.trainer.features(pixels.to(self.trainer.device))
            return features, self.trainer.match(features)

    def match(self, pixels: torch.Tensor) -> Matched:
        """Match preprocessed images (n, 3, S, S) with the classes."""
        return self.features_and_match(pixels)[1]

    def scores_of(self, pixels: torch.Tensor) -> Scores:
        """Return the OOD scores (n,) that the method has of preprocessed images (n, 3, S, S), by name."""
        features, match = self.features_and_match(pixels)
        return self.trainer.ood_scores(match, features=features)

    def batches(self, images: OneImage | Iterable[Any]) -> Iterator[torch.Tensor]:
        """Yield preprocessed images (n, 3, S, S) of what ``predict`` takes."""
        batch: list[torch.Tensor] = []
        for image in one_by_one(images):
            batch.append(self.preprocess(image))
            if len(batch) == self.batch_size:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)

    def preprocess(self, image: OneImage) -> torch.Tensor:
        """Return one image as a tensor (3, S, S).

        Raises:
            UserError: it is no image, or cannot be read.
        """
        size = self.trainer.model.clip.visual.image_size
        if isinstance(image, torch.Tensor):
            if tuple(image.shape) != (3, size, size) or not image.is_floating_point():
                expected = f"floating-point numbers of the shape (3, {size}, {size})"
                raise UserError(f"a preprocessed image has {expected}, not {image.dtype} of {tuple(image.shape)}")
            return image.float().cpu()
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
                got = f"{image.dtype} of {image.shape}"
                raise UserError(f"an image as an array is uint8 of the shape (H, W) or (H, W, 3), not {got}")
            image = Image.fromarray(image)
        return self.transform(self.read(image))

    def read(self, image: str | Path | Image.Image) -> Image.Image:
        """Return an image in RGB, as the run read its own; count what was remarked about it."""
        cfg, remarks = self.trainer.cfg, set[str]()
        how = reading(cfg)
        if isinstance(image, Image.Image):
            rgb: Image.Image = to_rgb(image, how["exif"], how["background"], remarks)
        else:
            side = max(cfg.INPUT.SIZE)
            at_least = (side, side) if cfg.DATALOADER.REDUCED_JPEG else None
            rgb = read_image(image, at_least, remarks=remarks, **how)
        self.remarks.update(remarks)
        return rgb

    @one_line_warnings()
    @torch.no_grad()
    def calibrate(self, root: str | None = None, score: str | None = None) -> "Predictor":
        """Set the OOD thresholds by the run's validation images, and keep them in the run's folder.

        Args:
            root: folder of the data sets; the run's if None.
            score: one more whose threshold is set: those with negatives, which first read all words, are left out.

        Returns:
            Itself.

        Raises:
            UserError: the run has no validation images, or predicts other classes.
            OSError, ValueError: the data set is missing.
        """
        if not self.of_run:
            raise UserError("the OOD threshold belongs to the run's own classes: calibrate without other class names")
        cfg = self.trainer.cfg.clone()
        cfg.defrost()
        cfg.DATASET.ROOT = root or cfg.DATASET.ROOT
        load_plugins()  # for the reader of the run's data set
        with seeded(max(cfg.SEED, 0)), contextlib.redirect_stdout(io.StringIO()):
            images = build_dataset(cfg).val  # as the run drew them
        if not images:
            raise UserError(f"{self.run} has no validation images, which set the OOD threshold")
        names = [name for name in self.scores if name == score or not name.endswith("NegLabel")]
        values: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        for batch in self.batches([item.impath for item in images]):
            scores = self.scores_of(batch)
            for name, of_batches in values.items():
                of_batches.append(scores[name].cpu())
        found = {name: float(threshold_at_95(torch.cat(of_batches))) for name, of_batches in values.items()}
        self.thresholds = self.thresholds | found
        record = {"thresholds": self.thresholds, "images": len(images), "epoch": self.epoch}
        write_json(record, str(self.run / THRESHOLDS))
        return self

    def read_thresholds(self) -> dict[str, float]:
        """Return the thresholds in the run's folder, if they are of these weights and these classes."""
        path = self.run / THRESHOLDS
        if not self.of_run or not path.is_file():
            return {}
        record = read_json(path)
        return record["thresholds"] if record["epoch"] == self.epoch else {}  # the run may have gone on


def one_by_one(images: OneImage | Iterable[Any]) -> Iterator[Any]:
    """Yield the single images of what ``Predictor.predict`` takes."""
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        yield from images
    elif isinstance(images, (str, Path, Image.Image, np.ndarray, torch.Tensor)):
        yield images
    else:
        for image in images:
            yield from one_by_one(image)


def of_class(match: Any, labels: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return support (n, K) and plan (n, K, N) of one class of each image.

    Args:
        match: of n images.
        labels: (n,) the classes.

    Raises:
        UserError: the method has no plan.
    """
    if getattr(match, "plan", None) is None:
        raise UserError("this method has no support and no transport plan: only SOT-GLP has both, PLOT a plan")
    rows = torch.arange(len(labels), device=match.plan.device)
    places = rows, labels.to(rows.device)
    return None if match.support is None else match.support[places].cpu(), match.plan[places].cpu()

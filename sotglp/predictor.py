"""A trained run as a predictor: images in, class names with probabilities out. It needs no data set.

Beside ``sotglp.trainer`` the only module of the library that needs the toolbox, and the trainers of the checkout.
"""

import contextlib
import io
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dassl.data.datasets import build_dataset
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.base import BEST
from dassl.metrics import threshold_at_95
from dassl.utils import (
    UserError,
    check_availability,
    load_checkpoint,
    load_pretrained_weights,
    read_image,
    read_json,
    write_json,
)
from scripts.runs import read_config
from sotglp.features import seeded
from sotglp.scores import ood_scores
from sotglp.trainer import CLIPTrainer

THRESHOLDS = "ood_threshold.json"  # in the run's folder
PREFERRED = ("GL-MCM", "MCM", "L-MCM")  # OOD scores; the first that a method has is its default


class Predictions(NamedTuple):
    """What is said of n images, on the CPU; None for what a method does not have."""

    names: list  # n names of the classes that are predicted
    combined: torch.Tensor  # (n, C) probabilities of the classes, in the order of Predictor.classnames
    global_: torch.Tensor | None  # (n, C) those of the global branch alone
    local: torch.Tensor | None  # (n, C) those of the local branch alone
    ood: torch.Tensor  # (n,) the larger, the more out-of-distribution
    is_ood: torch.Tensor | None  # (n,) whether that is above the threshold, if there is one
    support: torch.Tensor | None  # (n, K) patches of the predicted class's support, if asked for
    plan: torch.Tensor | None  # (n, K, N) share of each of them that each local prompt takes, if asked for


class Predictor:
    """Made by ``load``.

    classnames: the C names. score: of the OOD scores (sotglp.scores) the one that is given unless another is asked for.
    thresholds: {OOD score: the one that keeps 95 % of the run's validation images}, empty before ``calibrate``, and for
    other classes than the run's.
    """

    def __init__(self, run, trainer, epoch, of_run):
        self.run, self.trainer, self.epoch, self.of_run = run, trainer, epoch, of_run
        self.classnames = list(trainer.lab2cname.values())
        self.batch_size = trainer.cfg.DATALOADER.TEST.BATCH_SIZE
        self.transform = build_transform(trainer.cfg, is_train=False)
        with torch.no_grad(), trainer.precision.autocast():
            self.text = trainer.text = trainer.model.encode_text()  # once for all images
        size = trainer.model.clip.visual.image_size
        scores = self.scores_of(self.match(torch.zeros(1, 3, size, size)))
        self.score = next(name for name in PREFERRED if name in scores)
        self.thresholds = self.read_thresholds()

    def predict(self, images, score=None, support=False, quiet=True):
        """Predictions of images, each on its own: neither their number nor their order changes what is said of one.

        images: one image or a list of them: paths, PIL images, uint8 arrays (H, W), (H, W, 3) or (n, H, W, 3),
        preprocessed tensors (3, S, S) or (n, 3, S, S), or a mix. Only a batch of them is held at a time.
        score: the OOD score, ``self.score`` by default. support: also the patches and the transport plan of the
        predicted class. quiet: without a progress bar.
        Raises UserError for an image that cannot be read, and for what the method does not have.
        """
        parts = [self.predict_batch(batch, score, support) for batch in tqdm(self.batches(images), disable=quiet)]
        if not parts:
            raise UserError("there are no images to predict")
        joined = [None if column[0] is None else torch.cat(column) for column in list(zip(*parts, strict=True))[1:]]
        return Predictions([name for part in parts for name in part.names], *joined)

    @torch.no_grad()
    def predict_batch(self, pixels, score=None, support=False):
        """Predictions of preprocessed images (n, 3, S, S)."""
        match = self.match(pixels)
        probabilities = {name: values.cpu() for name, values in self.trainer.probabilities(match).items()}
        scores = self.scores_of(match)
        score = score or self.score
        check_availability(score, scores, "OOD score of this method")
        ood, threshold = scores[score].cpu(), self.thresholds.get(score)
        labels = probabilities["combined"].argmax(dim=1)
        kept = of_class(match, labels) if support else (None, None)
        return Predictions(
            [self.classnames[label] for label in labels.tolist()],
            *(probabilities.get(name) for name in ("combined", "global", "local")),
            ood,
            None if threshold is None else ood > threshold,
            *kept,
        )

    def match(self, pixels):
        """What the model makes of preprocessed images (n, 3, S, S)."""
        with torch.no_grad(), self.trainer.precision.autocast():
            return self.trainer.match(pixels.to(self.trainer.device))

    def scores_of(self, match):
        return ood_scores(match, self.trainer.model.logit_scale)

    def batches(self, images):
        """Preprocessed images (n, 3, S, S) of what ``predict`` takes."""
        batch = []
        for image in one_by_one(images):
            batch.append(self.preprocess(image))
            if len(batch) == self.batch_size:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)

    def preprocess(self, image):
        """The tensor (3, S, S) of one image. Raises UserError for what is no image."""
        size = self.trainer.model.clip.visual.image_size
        if isinstance(image, torch.Tensor):
            if tuple(image.shape) != (3, size, size) or not image.is_floating_point():
                wanted = f"floating-point numbers of the shape (3, {size}, {size})"
                raise UserError(f"a preprocessed image has {wanted}, not {image.dtype} of {tuple(image.shape)}")
            return image.float().cpu()
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
                what = f"{image.dtype} of {image.shape}"
                raise UserError(f"an array is an image if it is uint8 of the shape (H, W) or (H, W, 3), not {what}")
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            side = max(self.trainer.cfg.INPUT.SIZE)
            image = read_image(image, (side, side) if self.trainer.cfg.DATALOADER.REDUCED_JPEG else None)
        return self.transform(image.convert("RGB"))

    def with_classes(self, classnames):
        """The predictor of other classes, from the same run; ``load`` says which methods have one."""
        return load(self.run, classnames)

    def calibrate(self, root=None):
        """Learn the OOD thresholds on the run's validation images, and keep them in the run's folder.

        root: folder of the data sets, by default the run's.
        Raises UserError if the run has no validation images or predicts other classes, and OSError or ValueError if
        the data set is not there.
        """
        if not self.of_run:
            raise UserError("the OOD threshold is one of the run's own classes: calibrate without other class names")
        cfg = self.trainer.cfg.clone()
        cfg.defrost()
        cfg.DATASET.ROOT = root or cfg.DATASET.ROOT
        with seeded(max(cfg.SEED, 0)), contextlib.redirect_stdout(io.StringIO()):
            images = build_dataset(cfg).val  # as the run drew them
        if not images:
            raise UserError(f"{self.run} has no validation images to learn an OOD threshold from")
        scores = [self.scores_of(self.match(batch)) for batch in self.batches([item.impath for item in images])]
        self.thresholds = {
            name: float(threshold_at_95(torch.cat([of_batch[name].cpu() for of_batch in scores]))) for name in scores[0]
        }
        record = {"thresholds": self.thresholds, "images": len(images), "epoch": self.epoch}
        write_json(record, str(self.run / THRESHOLDS))
        return self

    def read_thresholds(self):
        path = self.run / THRESHOLDS
        if not self.of_run or not path.is_file():
            return {}
        record = read_json(path)
        return record["thresholds"] if record["epoch"] == self.epoch else {}  # the run may have gone on


def load(run, classnames=None):
    """The Predictor of a run's folder, which may have been moved, on a machine without the data set.

    classnames: other classes than the run's. A method that learns nothing of single classes takes any; SOT-GLP's
    global prompts do, without its local ones, which is warned of; others are refused.
    Raises OSError or UserError if the folder is no run of a CLIPTrainer, its weights are missing, or nothing in it
    serves the classes.
    """
    run = Path(run)
    cfg = read_config(run)
    kinds = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    ours = [name for name, kind in kinds.items() if issubclass(kind, CLIPTrainer)]
    if cfg.TRAINER.NAME not in ours:
        raise UserError(f"{run} is a run of {cfg.TRAINER.NAME}, but predictors are of {', '.join(ours)}")
    kind, best = kinds[cfg.TRAINER.NAME], cfg.TEST.FINAL_MODEL == "best_val"  # the weights of the run's results
    file = BEST if best else f"model.pth.tar-{cfg.OPTIM.MAX_EPOCH}"
    checkpoint = next((load_checkpoint(str(path)) for path in sorted(run.glob(f"*/{file}"))), {})
    # A method that learns nothing has no checkpoint, but what it was tested on.
    results = run / "results.json"
    made_with = checkpoint.get("made_with") or (read_json(results) if results.is_file() else {})
    learned = made_with.get("classnames")
    names = learned if classnames is None else list(classnames)
    if names is None:
        raise UserError(f"neither a checkpoint {run}/*/{file} nor {results} names the classes: give class names")
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError("class names are one or more words each, and there must be one class at least")
    with contextlib.redirect_stdout(io.StringIO()):  # the log of the set-up, which the run's own log.txt holds
        trainer = without_data(kind, cfg, names)
        settings = {} if names == learned else trainer.settings_for_new_classes()
        if settings is None:
            raise UserError(f"{cfg.TRAINER.NAME} learned something of each of the run's classes: it serves no others")
        changed = {key: value for key, value in settings.items() if trainer.node[key] != value}
        if changed:
            cfg.defrost()
            cfg.TRAINER[kind.NODE].update(changed)
            trainer = without_data(kind, cfg, names)
            load_pretrained_weights(trainer.model.learned, str(next(run.glob(f"*/{file}"))))
        else:
            trainer.load_model(str(run), epoch=None if best else cfg.OPTIM.MAX_EPOCH)
        trainer.set_model_mode("eval")
        predictor = Predictor(run, trainer, checkpoint.get("epoch"), names == learned)
    if changed:
        settings = ", ".join(f"{key} {value}" for key, value in changed.items())
        warnings.warn(f"other classes are served by what {kind.NODE} shares among classes ({settings})", stacklevel=2)
    return predictor


def without_data(kind, cfg, names):
    """A trainer that knows the names of its classes and has no images."""

    class WithoutData(kind):
        def build_data_loader(self):
            self.dm = SimpleNamespace(dataset=SimpleNamespace(classnames=names, train_x=[]))
            self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = None
            self.num_classes, self.lab2cname = len(names), dict(enumerate(names))

    return WithoutData(cfg)


def one_by_one(images):
    """The single images of what ``Predictor.predict`` takes."""
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        yield from images
    elif isinstance(images, (str, Path, Image.Image, np.ndarray, torch.Tensor)):
        yield images
    else:
        for image in images:
            yield from one_by_one(image)


def of_class(match, labels):
    """Support and plan of one class of each image. Raises UserError if the method has no plan."""
    if getattr(match, "plan", None) is None:
        raise UserError("this method has no support and no transport plan: only SOT-GLP has both, PLOT a plan")
    rows = torch.arange(len(labels), device=match.plan.device)
    parts = match.support, match.plan
    return tuple(None if part is None else part[rows, labels.to(rows.device)].cpu() for part in parts)

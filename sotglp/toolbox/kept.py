"""Features of images that training and tests keep, for the trainers on a frozen CLIP."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.utils.data import BatchSampler, DataLoader

from sotglp.features import EncodedBatches, EncodedImages, EncodedViews
from sotglp.precision import MixedPrecision
from sotglp.prompted import PromptedCLIP
from sotglp.stored import StoredTower
from sotglp.toolbox.upstream import Trainer, plain_sampler

FIXED = {"center_crop", "normalize", "instance_norm"}  # transforms (INPUT.TRANSFORMS) that draw nothing at random


class KeptFeatures(Trainer):
    """Batches hold "features" in the place of images where a loader's are kept.

    Attributes:
        kept: {(loader, stream): its batches of features}.
    """

    model: PromptedCLIP
    precision: MixedPrecision
    kept: dict[Any, Any]
    loader_of: Any  # of CLIPTrainer

    def before_train(self) -> None:
        super().before_train()
        if self.cfg.INPUT.get("CACHE_VIEWS"):
            self.train_loader_x = self.encoded_views(self.cfg.INPUT.CACHE_VIEWS)
        elif isinstance(self.train_loader_x, DataLoader) and not self.augments:
            sampler = plain_sampler(self.train_loader_x.sampler)
            self.train_loader_x = self.keep(self.train_loader_x, partial(EncodedBatches, sampler))

    @property
    def augments(self) -> bool:
        """Whether an image differs from epoch to epoch, or a batch holds more than one view of it."""
        cfg = self.cfg
        several = cfg.DATALOADER.K_TRANSFORMS > 1 or cfg.DATALOADER.RETURN_IMG0
        return several or cfg.INPUT.NO_TRANSFORM or not set(cfg.INPUT.TRANSFORMS) <= FIXED

    def encoded_views(self, n_views: int) -> Any:
        """Return the training batches as features of so many views of each image, or the loader as it is."""
        loader = self.train_loader_x
        batches = BatchSampler(plain_sampler(loader.sampler), loader.batch_size, loader.drop_last)
        views = self.loader_of(loader.dataset.data_source * n_views, loader.dataset.transform)
        views.dataset.is_train = True  # images that are decoded smaller are cropped as in training
        kept = self.keep(views, partial(EncodedViews, batches, n_views), seed=max(self.cfg.SEED, 0))
        if kept is views:
            print("INPUT.CACHE_VIEWS is not used: images are read and encoded at each step", file=sys.stderr)
            return loader
        return kept

    def batches_to_evaluate(self, split: str) -> Any:
        return self.encoded(super().batches_to_evaluate(split))

    def encoded(self, loader: Any) -> Any:
        """Return the features of a test loader's images if they can be kept, otherwise the loader."""
        key = loader, self.model.local
        if key not in self.kept:  # once, and not for each epoch's validation
            self.kept[key] = self.keep(loader, EncodedImages)
        return self.kept[key]

    def keep(self, loader: Any, kind: Any, **arguments: Any) -> Any:
        """Return the features of a loader's images, kept in INPUT.FEATURE_CACHE, or the loader.

        Features are not kept if they change in training, or might, as parts of the image tower were in a method's
        hands; if DATALOADER.ON_ERROR is "skip", which may leave images out; or if there is no room.

        Args:
            loader: of images.
            kind: makes EncodedImages.
            arguments: further ones of ``kind``.
        """
        cfg, folder = self.cfg, self.cfg.INPUT.get("FEATURE_CACHE")  # other toolboxes have no such key
        tower, local = self.model.clip.visual, self.model.local
        frozen = self.model.frozen_images and isinstance(tower, StoredTower) and not tower.opened
        if not folder or not frozen or cfg.DATALOADER.ON_ERROR == "skip":
            return loader
        try:
            with self.precision.autocast(), self.spending("encoding"):
                half, streams = self.precision.enabled, cfg.INPUT.FEATURE_STREAMS
                return kind(loader, tower, local, folder, half, streams, **arguments)
        except OSError as error:
            print(f"features are not kept in {folder}: {error}", file=sys.stderr)
            return loader

    def parse_batch_train(self, batch: Mapping[str, Any]) -> Any:
        return self.parse_batch_test(batch) if "features" in batch else super().parse_batch_train(batch)

    def parse_batch_test(self, batch: Mapping[str, Any]) -> Any:
        """Return a batch's images, or their features, and its labels, on the device."""
        if "features" not in batch:
            return super().parse_batch_test(batch)
        features = (None if part is None else part.to(self.device).float() for part in batch["features"])
        return tuple(features), batch["label"].to(self.device)

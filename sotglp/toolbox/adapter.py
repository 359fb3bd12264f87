"""What the trainers share that learn a classifier on features of the frozen image tower.

Letters: n images, b images of a batch, C classes, W width of the image tower, D joint dimension.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from sotglp.features import EncodedImages, seeded
from sotglp.interface import Backbone
from sotglp.matching import similarities
from sotglp.toolbox.trainer import CLIPTrainer


def scale_logits(clip: Backbone, factor: float) -> None:
    """Give a CLIP another logit scale; 0 leaves it its own."""
    if factor:
        clip.logit_scale.data.fill_(math.log(factor))


def class_means(values: torch.Tensor, labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return the means (C, D) of the rows (n, D) of each class; 0 of a class without any."""
    sums = torch.zeros(n_classes, values.shape[1], dtype=values.dtype, device=values.device)
    return sums.index_add(0, labels, values) / labels.bincount(minlength=n_classes).clamp(min=1)[:, None]


class TokenBatches:
    """Training batches of class tokens in memory, in a new random order each epoch.

    Args:
        tokens: (n, W).
        labels: (n,).
        size: of a batch.
    """

    def __init__(self, tokens: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        self.tokens, self.labels, self.size = tokens, labels, size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for rows in torch.randperm(len(self.labels)).to(self.labels.device).split(self.size):
            yield {"features": (self.tokens[rows], None), "label": self.labels[rows]}


class AdapterTrainer(CLIPTrainer):
    """A classifier on features of the images, and fixed text."""

    class_specific = True

    def encode_views(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class tokens (number * n, W) and labels of augmented views of the n training images.

        Views are drawn from the run's seed alone, so a run that goes on has the same ones. They are kept where features
        are kept.
        """
        transform, seed = self.train_loader_x.dataset.transform, max(self.cfg.SEED, 0)
        loader = self.loader_of(self.dm.dataset.train_x * number, transform)
        loader.dataset.is_train = True  # images that are decoded smaller are cropped as in training
        batches = self.keep(loader, EncodedImages, seed=seed)
        with seeded(seed):
            return self.class_tokens(batches)

    @cached_property
    def validation(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised features (n, D), zero-shot logits (n, C) and labels (n,) of the validation images."""
        images, labels = self.encode_images(self.encoded(self.val_loader))
        images = F.normalize(images, dim=-1)
        return images, self.model.logit_scale * similarities(images, self.model.encode_text())[..., 0], labels

"""Samplers: the order in which a loader takes images."""

import random

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from dassl.utils import UserError, check_availability


class RandomClassSampler(Sampler):
    """Batches of batch_size // n_ins different classes with n_ins images each.

    An epoch has as many batches as the images fill. A class with fewer than n_ins images repeats some of them. If too
    few classes have images left for a batch, other classes come again.

    Args:
        data_source: List of Datum.
        batch_size: Images per batch.
        n_ins: Images per class in a batch.

    Raises:
        UserError: The batch is smaller than n_ins, or needs more classes than the data set has.
    """

    def __init__(self, data_source, batch_size, n_ins):
        self.indices = {}
        for index, item in enumerate(data_source):
            self.indices.setdefault(item.label, []).append(index)
        self.n_ins, self.n_classes = n_ins, batch_size // n_ins
        if not 1 <= self.n_classes <= len(self.indices):
            raise UserError(
                f"RandomClassSampler needs {self.n_classes} classes for a batch of {batch_size} with {n_ins} images "
                f"each (TRAIN_X.N_INS), but there are {len(self.indices)}"
            )

    def __iter__(self):
        groups = {label: self.draw_groups(indices) for label, indices in self.indices.items()}
        for _ in range(len(self) // (self.n_classes * self.n_ins)):
            labels = random.sample(list(groups), min(self.n_classes, len(groups)))
            others = [label for label in self.indices if label not in labels]
            for label in random.sample(others, self.n_classes - len(labels)):
                yield from self.draw_groups(self.indices[label])[0]
            for label in labels:
                yield from groups[label].pop()
                if not groups[label]:
                    del groups[label]

    def __len__(self):
        groups = sum(max(len(indices) // self.n_ins, 1) for indices in self.indices.values())
        return groups // self.n_classes * self.n_classes * self.n_ins

    def draw_groups(self, indices):
        """Return the shuffled images of a class in groups of n_ins; a remainder is left out."""
        if len(indices) < self.n_ins:
            return [np.random.choice(indices, self.n_ins, replace=True).tolist()]
        shuffled = random.sample(indices, len(indices))
        return [shuffled[i : i + self.n_ins] for i in range(0, len(shuffled) - self.n_ins + 1, self.n_ins)]


class EpochSeeds(Sampler):
    """The indices of a sampler, each with a seed of its epoch: (index, seed).

    A worker process that is kept for another epoch is seeded with it, so it draws what a new one would draw: torch
    seeds new workers from its generator before the sampler draws its order. The workers of the first epoch are new,
    so its seed is None.
    """

    def __init__(self, sampler):
        self.sampler, self.first = sampler, True

    def __iter__(self):
        seed = None if self.first else torch.empty((), dtype=torch.int64).random_().item()
        self.first = False
        return ((index, seed) for index in self.sampler)

    def __len__(self):
        return len(self.sampler)


SAMPLERS = {
    "RandomSampler": lambda data, batch_size, n_ins: RandomSampler(data),
    "SequentialSampler": lambda data, batch_size, n_ins: SequentialSampler(data),
    "RandomClassSampler": RandomClassSampler,
}


def build_sampler(sampler_type, cfg=None, data_source=None, batch_size=32, n_domain=0, n_ins=16):
    """Return a sampler over a list of Datum.

    Args:
        sampler_type: RandomSampler, SequentialSampler or RandomClassSampler.
        cfg: Unused; other repositories pass it.
        data_source: List of Datum.
        batch_size: Images per batch.
        n_domain: Unused; other repositories pass it.
        n_ins: Images per class in a batch of RandomClassSampler.

    Raises:
        UserError: The name is unknown, or belongs to a sampler by domain.
    """
    if sampler_type in ("RandomDomainSampler", "SeqDomainSampler"):
        raise UserError(
            f"{sampler_type} is for domain generalisation only, which this toolbox leaves out: use RandomSampler"
        )
    check_availability(sampler_type, SAMPLERS, "sampler (DATALOADER.*.SAMPLER)")
    return SAMPLERS[sampler_type](data_source, batch_size, n_ins)

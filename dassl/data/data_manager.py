"""Loaders of batches from the image lists of a reader."""

import random
import sys
from operator import attrgetter

import numpy as np
import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info
from torch.utils.data._utils.worker import _generate_state
from torchvision import transforms as T

from dassl.utils import UserError, read_image
from dassl.utils.images import REMARKS

from .datasets import build_dataset, reads_exif
from .samplers import EpochSeeds, build_sampler
from .transforms import INTERPOLATION_MODES, build_transform


class DatasetWrapper(Dataset):
    """Images of a list of Datum, loaded and transformed.

    An item is a dict with label, domain, impath, index and img:

    - A list of transforms gives img, img2, img3, ...
    - DATALOADER.K_TRANSFORMS > 1 makes img a list of views, in training.
    - DATALOADER.RETURN_IMG0 adds img0, the image without augmentation.
    - Without a transform, img is the PIL image.

    An image that is cut off is taken as far as it goes with DATALOADER.ON_ERROR "load", and is unreadable otherwise.
    "skip" reports an unreadable image and marks it in `unreadable`. In training, the next image of the class replaces
    it, so batches keep their size. In a test, its item is None.

    Args:
        cfg: The configuration.
        data_source: List of Datum.
        transform: Function of a PIL image, or a list of such functions.
        is_train: Whether the images are for training.

    Attributes:
        unreadable: (N,) bool, True for each image that was skipped; shared with worker processes.
        remarks: (N, len(REMARKS)) bool, the remarks about each image that was read; shared as well.
        how: How images are read, as keyword arguments of `read_image`.

    Raises:
        ValueError: K_TRANSFORMS is above 1 without a transform, or ON_ERROR is unknown.
        UserError: Raised when an item is loaded: its image is unreadable (or with "skip" all training images of its
            class are).
    """

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError("DATALOADER.K_TRANSFORMS > 1 needs a transform: set INPUT.NO_TRANSFORM to False")
        if cfg.DATALOADER.ON_ERROR not in ("load", "stop", "skip"):
            raise ValueError(f'DATALOADER.ON_ERROR must be load, stop or skip, got "{cfg.DATALOADER.ON_ERROR}"')
        self.how = reading(cfg)
        # Workers write both.
        self.unreadable = torch.zeros(len(data_source), dtype=torch.bool).share_memory_()
        self.remarks = torch.zeros(len(data_source), len(REMARKS), dtype=torch.bool).share_memory_()
        self.seed = None
        to_tensor = [T.Resize(cfg.INPUT.SIZE, INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]), T.ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            to_tensor.append(T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
        self.to_tensor = T.Compose(to_tensor)

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, index):
        if isinstance(index, tuple):  # from EpochSeeds
            index, seed = index
            self.follow(seed)
        index, image = self.read(index)
        if image is None:
            return None
        item = self.data_source[index]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": index}
        if self.transform is None:
            output["img"] = image
            return output
        transforms = self.transform if isinstance(self.transform, (list, tuple)) else [self.transform]
        for number, transform in enumerate(transforms, start=1):
            views = [transform(image) for _ in range(self.k_tfm)]
            output[f"img{number}" if number > 1 else "img"] = views if self.k_tfm > 1 else views[0]
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def follow(self, seed):
        """Seed a worker process that is kept for another epoch as torch seeds a new one."""
        if seed == self.seed:
            return
        self.seed, worker = seed, get_worker_info().id
        random.seed(seed + worker)
        torch.manual_seed(seed + worker)
        np.random.seed(_generate_state(seed, worker))

    def read(self, index):
        """Return the index and the image of an item or of its replacement.

        Returns:
            (index, PIL image); the image is None if an unreadable test image is skipped.
        """
        at_least = self.smallest_size() if self.cfg.DATALOADER.REDUCED_JPEG else None
        for i in self.candidates(index):
            if not self.unreadable[i]:
                remarks = set()
                try:
                    image = read_image(self.data_source[i].impath, at_least, remarks=remarks, **self.how)
                    self.remarks[i] = torch.tensor([key in remarks for key in REMARKS])
                    return i, image
                except UserError as error:
                    if self.cfg.DATALOADER.ON_ERROR != "skip":
                        raise
                    self.unreadable[i] = True
                    print(f"skipped: {error}", file=sys.stderr)
        if self.is_train:
            raise UserError(f'no training image of class "{self.data_source[index].classname}" can be read')
        return index, None

    def candidates(self, index):
        """Yield an index, then in training those of the other images of its class."""
        yield index
        if self.is_train:
            label, after = self.data_source[index].label, [*range(index + 1, len(self)), *range(index)]
            yield from (i for i in after if self.data_source[i].label == label)

    def smallest_size(self):
        """Return the least (width, height) at which the transforms enlarge neither an image nor a crop of it.

        None if crops may be of any size.
        """
        cfg, share = self.cfg.INPUT, 1.0
        if self.is_train and "random_resized_crop" in cfg.TRANSFORMS:
            share = 3 / 4 * cfg.RRCROP_SCALE[0]  # of the area; 3/4 is the aspect ratio of torchvision's narrowest crop
        side = round(max(cfg.SIZE) / share**0.5) if share else None
        return side and (side, side)


def reading(cfg):
    """Return how the images of a configuration are read, as keyword arguments of `read_image`."""
    exif = {"on": True, "off": False}.get(cfg.INPUT.EXIF, reads_exif(cfg.DATASET.NAME))
    return {"exif": exif, "background": cfg.INPUT.BACKGROUND, "truncated": cfg.DATALOADER.ON_ERROR == "load"}


def remarked(datasets):
    """Return {key of REMARKS: number of images that it applies to} of the images that several DatasetWrapper read."""
    paths = {key: set() for key in REMARKS}
    for dataset in datasets:
        for index, column in dataset.remarks.nonzero().tolist():
            paths[list(REMARKS)[column]].add(dataset.data_source[index].impath)
    return {key: len(found) for key, found in paths.items() if found}


def collate(items):
    """Return the batch of the readable items; None if there are none."""
    items = [item for item in items if item is not None]
    return default_collate(items) if items else None


class Loader(DataLoader):
    """A DataLoader that leaves out batches without a readable image."""

    def __iter__(self):
        return (batch for batch in super().__iter__() if batch is not None)


def build_data_loader(
    cfg,
    sampler_type="SequentialSampler",
    data_source=None,
    batch_size=64,
    n_domain=0,
    n_ins=2,
    tfm=None,
    is_train=True,
    dataset_wrapper=None,
):
    """Return the loader of a list of Datum.

    In training an incomplete last batch is dropped, unless it is the only one. Worker processes are kept from epoch
    to epoch. With the dataset_wrapper of another repository they are not, because it does not follow EpochSeeds.

    Args:
        cfg: The configuration.
        sampler_type: Name of a sampler, see `build_sampler`.
        data_source: List of Datum.
        batch_size: Images per batch.
        n_domain: Unused; other repositories pass it.
        n_ins: Images per class in a batch of RandomClassSampler.
        tfm: The transform, see DatasetWrapper.
        is_train: Whether the images are for training.
        dataset_wrapper: Replaces DatasetWrapper.

    Raises:
        UserError: The list is empty, or the sampler is unknown.
    """
    if not data_source:
        raise UserError(f'data set "{cfg.DATASET.NAME}" has no {"training" if is_train else "test"} images')
    sampler = build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins)
    dataset = (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train)
    workers = cfg.DATALOADER.NUM_WORKERS
    persistent = workers > 0 and type(dataset).__getitem__ is DatasetWrapper.__getitem__
    return Loader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSeeds(sampler) if persistent else sampler,
        num_workers=workers,
        persistent_workers=persistent,
        collate_fn=collate,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=cfg.USE_CUDA and torch.cuda.is_available(),
    )


def chosen_transform(cfg, custom, is_train):
    """Return the transform of the training images or of the others: `custom`, or the configuration's if None."""
    if custom is None:
        return build_transform(cfg, is_train=is_train)
    print(f"* Using custom transform for {'training' if is_train else 'testing'}")
    return custom


class DataManager:
    """The data set of a configuration and its loaders.

    Args:
        cfg: The configuration.
        custom_tfm_train: Replaces the configuration's transform of training images.
        custom_tfm_test: Replaces the configuration's transform of validation and test images.
        dataset_wrapper: Replaces DatasetWrapper.

    Attributes:
        dataset: The data set.
        train_loader_x: Loader of labelled training images.
        train_loader_u: Loader of unlabelled training images, with the settings of train_loader_x; None without them.
        val_loader: Loader of validation images; None without them.
        test_loader: Loader of test images.
        num_classes, lab2cname: Those of the data set.
        num_source_domains: Number of cfg.DATASET.SOURCE_DOMAINS.
    """

    num_classes = property(attrgetter("dataset.num_classes"))
    lab2cname = property(attrgetter("dataset.lab2cname"))
    num_source_domains = property(attrgetter("_num_source_domains"))

    def __init__(self, cfg, custom_tfm_train=None, custom_tfm_test=None, dataset_wrapper=None):
        self.dataset, self._num_source_domains = build_dataset(cfg), len(cfg.DATASET.SOURCE_DOMAINS)
        tfm_train = chosen_transform(cfg, custom_tfm_train, is_train=True)
        tfm_test = chosen_transform(cfg, custom_tfm_test, is_train=False)
        train_x = cfg.DATALOADER.TRAIN_X
        train = {
            "sampler_type": train_x.SAMPLER,
            "batch_size": train_x.BATCH_SIZE,
            "n_ins": train_x.N_INS,
            "tfm": tfm_train,
            "is_train": True,
            "dataset_wrapper": dataset_wrapper,
        }
        unlabelled = self.dataset.train_u
        self.train_loader_x = build_data_loader(cfg, data_source=self.dataset.train_x, **train)
        self.train_loader_u = build_data_loader(cfg, data_source=unlabelled, **train) if unlabelled else None
        test = {
            "sampler_type": cfg.DATALOADER.TEST.SAMPLER,
            "batch_size": cfg.DATALOADER.TEST.BATCH_SIZE,
            "tfm": tfm_test,
            "is_train": False,
            "dataset_wrapper": dataset_wrapper,
        }
        val = self.dataset.val
        self.val_loader = build_data_loader(cfg, data_source=val, **test) if val else None
        self.test_loader = build_data_loader(cfg, data_source=self.dataset.test, **test)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg):
        """Print a table with the numbers of classes and images."""
        rows = [["Dataset", cfg.DATASET.NAME]]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(["Source", cfg.DATASET.SOURCE_DOMAINS])
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(["Target", cfg.DATASET.TARGET_DOMAINS])
        rows.append(["# classes", f"{self.num_classes:,}"])
        for split in ("train_x", "train_u", "val", "test"):
            items = getattr(self.dataset, split)
            if items:
                rows.append([f"# {split}", f"{len(items):,}"])
        print(tabulate(rows))

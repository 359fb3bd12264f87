"""From a reader's lists of images to loaders of batches."""

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from dassl.utils import UserError, read_image

from .datasets import build_dataset
from .samplers import build_sampler
from .transforms import INTERPOLATION_MODES, build_transform


class DatasetWrapper(Dataset):
    """Load images and transform them.

    An item is a dict with label, domain, impath, index and img. Several transforms (a list) give img, img2,
    img3, ...; DATALOADER.K_TRANSFORMS > 1 gives img as a list of views, in training; RETURN_IMG0 adds img0,
    the image without augmentation; no transform gives the PIL image.

    Raises:
        ValueError: several views are wanted of no transform.
        UserError: (when an item is taken) an image cannot be read.
    """

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError("DATALOADER.K_TRANSFORMS > 1 needs transforms, got INPUT.NO_TRANSFORM True")
        to_tensor = [T.Resize(cfg.INPUT.SIZE, INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]), T.ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            to_tensor.append(T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
        self.to_tensor = T.Compose(to_tensor)

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, index):
        item = self.data_source[index]
        image = read_image(item.impath)
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
    """Make the loader of a list of Datum.

    In training an incomplete last batch is dropped, unless it is the only one. Workers are started anew for
    every epoch: if they lived on, the random numbers would not be those of the rest of the family.

    Raises:
        UserError: the list is empty, or the sampler is unknown.
    """
    if not data_source:
        raise UserError(f'data set "{cfg.DATASET.NAME}" has no {"training" if is_train else "test"} images')
    sampler = build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins)
    return DataLoader(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=cfg.USE_CUDA and torch.cuda.is_available(),
    )


class DataManager:
    """The data set of a configuration and its loaders: train_loader_x, test_loader, and val_loader and
    train_loader_u (of unlabelled images, as train_loader_x), which are None without such images.

    Args:
        custom_tfm_train, custom_tfm_test: used instead of the configuration's transforms.
        dataset_wrapper: used instead of DatasetWrapper.
    """

    def __init__(self, cfg, custom_tfm_train=None, custom_tfm_test=None, dataset_wrapper=None):
        self.dataset = build_dataset(cfg)
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if custom_tfm_train is not None:
            print("* Using custom transform for training")
        if custom_tfm_test is not None:
            print("* Using custom transform for testing")
        tfm_train = custom_tfm_train or build_transform(cfg, is_train=True)
        tfm_test = custom_tfm_test or build_transform(cfg, is_train=False)

        train_x = cfg.DATALOADER.TRAIN_X
        train = {
            "sampler_type": train_x.SAMPLER,
            "batch_size": train_x.BATCH_SIZE,
            "n_domain": train_x.N_DOMAIN,
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

    @property
    def num_classes(self):
        return self.dataset.num_classes

    @property
    def num_source_domains(self):
        return self._num_source_domains

    @property
    def lab2cname(self):
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg):
        """Print a table of the data set."""
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

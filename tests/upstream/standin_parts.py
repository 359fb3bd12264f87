"""Upstream's configuration, logger, checkpoints and loaders for `standin.py`, written by their documented behaviour."""

import os
import sys
import time
from pathlib import Path

import beneath.config
import beneath.data.samplers
import beneath.data.transforms
import beneath.optim
import beneath.utils
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor
from yacs.config import CfgNode

DEFAULTS = {
    **{"OUTPUT_DIR": "./output", "RESUME": "", "SEED": -1, "USE_CUDA": True, "VERBOSE": True, "VERSION": 1},
    "INPUT": {
        **{"SIZE": (224, 224), "INTERPOLATION": "bilinear", "TRANSFORMS": (), "NO_TRANSFORM": False},
        **{"PIXEL_MEAN": [0.485, 0.456, 0.406], "PIXEL_STD": [0.229, 0.224, 0.225], "RRCROP_SCALE": (0.08, 1.0)},
        **{"CROP_PADDING": 4, "CUTOUT_N": 1, "CUTOUT_LEN": 16, "GN_MEAN": 0.0, "GN_STD": 0.15},
        **{"RANDAUGMENT_N": 2, "RANDAUGMENT_M": 10, "COLORJITTER_B": 0.4, "COLORJITTER_C": 0.4},
        **{"COLORJITTER_S": 0.4, "COLORJITTER_H": 0.1, "RGS_P": 0.2, "GB_P": 0.5, "GB_K": 21},
    },
    "DATASET": {
        **{"ROOT": "", "NAME": "", "NUM_SHOTS": -1, "SOURCE_DOMAINS": (), "TARGET_DOMAINS": (), "NUM_LABELED": -1},
        **{"VAL_PERCENT": 0.1, "STL10_FOLD": -1, "CIFAR_C_TYPE": "", "CIFAR_C_LEVEL": 1, "ALL_AS_UNLABELED": False},
    },
    "DATALOADER": {
        **{"NUM_WORKERS": 4, "K_TRANSFORMS": 1, "RETURN_IMG0": False},
        "TRAIN_X": {"SAMPLER": "RandomSampler", "BATCH_SIZE": 32, "N_DOMAIN": 0, "N_INS": 16},
        "TRAIN_U": {"SAME_AS_X": True, "SAMPLER": "RandomSampler", "BATCH_SIZE": 32, "N_DOMAIN": 0, "N_INS": 16},
        "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
    },
    "MODEL": {
        "INIT_WEIGHTS": "",
        "BACKBONE": {"NAME": "", "PRETRAINED": True},
        "HEAD": {"NAME": "", "HIDDEN_LAYERS": (), "ACTIVATION": "relu", "BN": True, "DROPOUT": 0.0},
    },
    "OPTIM": {
        **{"NAME": "adam", "LR": 0.0003, "WEIGHT_DECAY": 5e-4, "MOMENTUM": 0.9, "SGD_DAMPNING": 0},
        **{"SGD_NESTEROV": False, "RMSPROP_ALPHA": 0.99, "ADAM_BETA1": 0.9, "ADAM_BETA2": 0.999},
        **{"STAGED_LR": False, "NEW_LAYERS": (), "BASE_LR_MULT": 0.1, "LR_SCHEDULER": "single_step"},
        **{"STEPSIZE": (-1,), "GAMMA": 0.1, "MAX_EPOCH": 10, "WARMUP_EPOCH": -1, "WARMUP_TYPE": "linear"},
        **{"WARMUP_CONS_LR": 1e-5, "WARMUP_MIN_LR": 1e-5, "WARMUP_RECOUNT": True},
    },
    "TRAIN": {"CHECKPOINT_FREQ": 0, "PRINT_FREQ": 10, "COUNT_ITER": "train_x"},
    "TEST": {
        **{"EVALUATOR": "Classification", "PER_CLASS_RESULT": False, "COMPUTE_CMAT": False, "NO_TEST": False},
        **{"SPLIT": "test", "FINAL_MODEL": "last_step"},
    },
    "TRAINER": {"NAME": ""},
}


def get_cfg_default():
    return CfgNode(DEFAULTS).clone()


def clean_cfg(cfg, trainer):
    for key in {*cfg.TRAINER} - {"NAME", trainer.upper()}:
        del cfg.TRAINER[key]


def whole(value):
    """Return a configuration, or its node OPTIM, with the keys that `beneath` needs; other values as they are."""
    if not isinstance(value, CfgNode):
        return value
    ours = beneath.config.get_cfg_default()
    return fill(ours if "OPTIM" in value else ours.OPTIM, value)


def fill(node, values):
    for key, value in values.items():
        node[key] = fill(node.get(key, CfgNode()), value) if isinstance(value, CfgNode) else value
    return node


class Logger:
    def __init__(self, fpath=None):
        self.console = sys.stdout
        self.file = open(fpath, "w") if fpath else None

    def __del__(self):
        self.close()

    def __enter__(self):
        pass

    def __exit__(self, *args):
        self.close()

    def write(self, msg):
        self.console.write(msg)
        if self.file:
            self.file.write(msg)

    def flush(self):
        self.console.flush()
        if self.file:
            self.file.flush()

    def close(self):
        """Close the file; upstream closes the console, too, which would end the test's process with 120."""
        if self.file:
            self.file.close()


def setup_logger(output=None):
    if output:
        path = Path(output) / "log.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout = Logger(path.with_name(f"log.txt-{time.time()}") if path.exists() else path)


def load_checkpoint(fpath):
    """Load with torch's own default, which refuses what a pickle may hold beside tensors and plain values."""
    if not os.path.exists(fpath):
        raise FileNotFoundError(f"no file at {fpath}")
    return torch.load(fpath, map_location=None if torch.cuda.is_available() else "cpu")


def resume_from_checkpoint(fdir, model, optimizer=None, scheduler=None):
    checkpoint = load_checkpoint(os.path.join(fdir, Path(fdir, "checkpoint").read_text().split("\n")[0]))
    for part, key in ((model, "state_dict"), (optimizer, "optimizer"), (scheduler, "scheduler")):
        if part is not None and checkpoint.get(key) is not None:
            part.load_state_dict(checkpoint[key])
    return checkpoint["epoch"]


def build_lr_scheduler(optimizer, optim_cfg):
    if optim_cfg.WARMUP_EPOCH > 0:
        raise TypeError("LRScheduler.__init__() takes from 2 to 3 positional arguments but 4 were given")
    return beneath.optim.build_lr_scheduler(optimizer, whole(optim_cfg))


class DatasetWrapper(Dataset):
    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.cfg, self.data_source, self.transform, self.is_train = cfg, data_source, transform, is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0, self.to_tensor = cfg.DATALOADER.RETURN_IMG0, ToTensor()

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, idx):
        item = self.data_source[idx]
        image = beneath.utils.read_image(item.impath)
        image = image if self.transform is None else self._transform_image(self.transform, image)
        return {"img": image, "index": idx, **{key: getattr(item, key) for key in ("label", "domain", "impath")}}

    def _transform_image(self, tfm, img0):
        views = [tfm(img0) for _ in range(self.k_tfm)]
        return views if self.k_tfm > 1 else views[0]


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
    loader = DataLoader(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size,
        sampler=beneath.data.samplers.build_sampler(sampler_type, None, data_source, batch_size, n_domain, n_ins),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
    )
    assert len(loader) > 0
    return loader


class DataManager:
    def __init__(self, cfg, custom_tfm_train=None, custom_tfm_test=None, dataset_wrapper=None):
        self.dataset = build_dataset(cfg)
        self._source_domains = cfg.DATASET.SOURCE_DOMAINS
        own = {True: custom_tfm_train, False: custom_tfm_test}
        build = beneath.data.transforms.build_transform
        transforms = {is_train: tfm or build(whole(cfg), is_train=is_train) for is_train, tfm in own.items()}

        def loader(items, node, is_train):
            arguments = {"tfm": transforms[is_train], "is_train": is_train, "dataset_wrapper": dataset_wrapper}
            return items and build_data_loader(cfg, node.SAMPLER, items, node.BATCH_SIZE, **arguments)

        nodes = cfg.DATALOADER
        self.train_loader_x = loader(self.dataset.train_x, nodes.TRAIN_X, True)
        self.train_loader_u = loader(self.dataset.train_u, nodes.TRAIN_U, True)
        self.val_loader = loader(self.dataset.val, nodes.TEST, False)
        self.test_loader = loader(self.dataset.test, nodes.TEST, False)

    @property
    def num_classes(self):
        return self.dataset.num_classes

    @property
    def num_source_domains(self):
        return len(self._source_domains)

    @property
    def lab2cname(self):
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg):
        print(cfg.DATASET.NAME)


def build_dataset(cfg):
    return sys.modules["dassl.data.datasets.build"].DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)


def build_trainer(cfg):
    return sys.modules["dassl.engine.build"].TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)


def build_evaluator(cfg, **kwargs):
    return sys.modules["dassl.evaluation.build"].EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)

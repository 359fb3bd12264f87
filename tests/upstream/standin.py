"""A strict stand-in for upstream Dassl; a test's checkout has this file as its `dassl/__init__.py`.

Beside it lie signatures.json, which lists upstream's modules, classes, methods and functions with their parameters, and
the package `beneath`, our toolbox under another name. What the list lacks does not exist, a call with other arguments
is a TypeError, and the configuration has upstream's keys alone. Trainers and loaders are written here, by upstream's
documented behaviour, with its faults on current PyTorch: warm-up and `load_model` without a result on validation fail.
The rest is passed on to `beneath`; what that lacks raises NotImplementedError.
"""

import importlib
import inspect
import json
import os
import sys
import time
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import beneath.config
import beneath.data.samplers
import beneath.data.transforms
import beneath.optim
import beneath.utils
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms import InterpolationMode, ToTensor
from yacs.config import CfgNode

SIGNATURES = json.loads(Path(__file__).with_name("signatures.json").read_text())
# What packages offer beside their modules.
EXPORTS = {
    "data": {"data_manager": ["DataManager", "DatasetWrapper"]},
    "data.datasets": {"base_dataset": ["Datum", "DatasetBase"], "build": ["DATASET_REGISTRY", "build_dataset"]},
    "data.transforms": {"transforms": ["build_transform", "INTERPOLATION_MODES"]},
    "engine": {
        "build": ["TRAINER_REGISTRY", "build_trainer"],
        "trainer": ["TrainerBase", "SimpleTrainer", "TrainerX", "TrainerXU", "SimpleNet"],
    },
    "evaluation": {"build": ["EVALUATOR_REGISTRY", "build_evaluator"], "evaluator": ["EvaluatorBase"]},
    "metrics": {"accuracy": ["compute_accuracy"], "distance": ["compute_distance_matrix"]},
    "optim": {"optimizer": ["build_optimizer"], "lr_scheduler": ["build_lr_scheduler"]},
    "utils": {name: None for name in ("tools", "logger", "meters", "registry", "torchtools")},  # None: all
}
# Attributes of objects that are not methods.
ATTRIBUTES = {
    "DatasetBase": {"dataset_dir": "", "domains": []},
    "EvaluatorBase": {"cfg": None},
    "Classification": dict.fromkeys(
        ["cfg", "_correct", "_total", "_per_class_res", "_y_true", "_y_pred", "_lab2cname"]
    ),
    "AverageMeter": dict.fromkeys(["val", "avg", "sum", "count"]),
    "MetricMeter": dict.fromkeys(["meters", "delimiter"]),
}
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


class TrainerBase:
    def __init__(self):
        self._models, self._optims, self._scheds = OrderedDict(), OrderedDict(), OrderedDict()
        self._writer = None

    def register_model(self, name="model", model=None, optim=None, sched=None):
        assert name not in self._models
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names=None):
        return list(self._models) if names is None else beneath.utils.tolist_if_not(names)

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        for name, model in self._models.items():
            parts = {"optimizer": self._optims[name], "scheduler": self._scheds[name]}
            state = {key: part and part.state_dict() for key, part in parts.items()}
            state |= {"state_dict": model.state_dict(), "epoch": epoch + 1, "val_result": val_result}
            folder = os.path.join(directory, name)
            beneath.utils.save_checkpoint(state, folder, is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory):
        folders = {name: os.path.join(directory, name) for name in self._models}
        if not all(map(os.path.exists, folders.values())):
            print("No checkpoint found, train from scratch")
            return 0
        epoch = 0
        for name, folder in folders.items():
            parts = self._models[name], self._optims[name], self._scheds[name]
            epoch = resume_from_checkpoint(folder, *parts)
        return epoch

    def load_model(self, directory, epoch=None):
        if not directory:
            print("load_model() is skipped")
            return
        for name, model in self._models.items():
            file = f"model.pth.tar-{epoch}" if epoch else "model-best.pth.tar"
            checkpoint = load_checkpoint(os.path.join(directory, name, file))
            print(f"Load {file} to {name} (val_result={checkpoint['val_result']:.1f})")  # None is a TypeError
            model.load_state_dict(checkpoint["state_dict"])

    def set_model_mode(self, mode="train", names=None):
        for name in self.get_model_names(names):
            self._models[name].train({"train": True, "test": False, "eval": False}[mode])

    def update_lr(self, names=None):
        for sched in filter(None, [self._scheds[name] for name in self.get_model_names(names)]):
            sched.step()

    def detect_anomaly(self, loss):
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def init_writer(self, log_dir):
        self._writer = self._writer or SummaryWriter(log_dir=log_dir)

    def close_writer(self):
        if self._writer is not None:
            self._writer.close()

    def write_scalar(self, tag, scalar_value, global_step=None):
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    def train(self, start_epoch, max_epoch):
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()  # which may set start_epoch
        for number in range(self.start_epoch, self.max_epoch):
            self.epoch = number
            for part in (self.before_epoch, self.run_epoch, self.after_epoch):
                part()
        self.after_train()

    def before_train(self):
        pass

    def after_train(self):
        pass

    def before_epoch(self):
        pass

    def after_epoch(self):
        pass

    def run_epoch(self):
        raise NotImplementedError

    def test(self):
        raise NotImplementedError

    def parse_batch_train(self, batch):
        raise NotImplementedError

    def parse_batch_test(self, batch):
        raise NotImplementedError

    def forward_backward(self, batch):
        raise NotImplementedError

    def model_inference(self, input):
        raise NotImplementedError

    def model_zero_grad(self, names=None):
        for optim in filter(None, [self._optims[name] for name in self.get_model_names(names)]):
            optim.zero_grad()

    def model_backward(self, loss):
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        for optim in filter(None, [self._optims[name] for name in self.get_model_names(names)]):
            optim.step()

    def model_backward_and_update(self, loss, names=None):
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)


class SimpleTrainer(TrainerBase):
    def __init__(self, cfg):
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch, self.output_dir, self.cfg = cfg.OPTIM.MAX_EPOCH, cfg.OUTPUT_DIR, cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -float("inf")

    def check_cfg(self, cfg):
        pass

    def build_data_loader(self):
        self.dm = DataManager(self.cfg)
        for name in ("train_loader_x", "train_loader_u", "val_loader", "test_loader"):
            setattr(self, name, getattr(self.dm, name))
        for name in ("num_classes", "num_source_domains", "lab2cname"):
            setattr(self, name, getattr(self.dm, name))

    def build_model(self):
        raise NotImplementedError

    def train(self):
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self):
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def after_train(self):
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                self.load_model(self.output_dir)
            self.test()
        self.close_writer()

    def after_epoch(self):
        done, freq = self.epoch + 1, self.cfg.TRAIN.CHECKPOINT_FREQ
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result, best = result, {"val_result": result, "model_name": "model-best.pth.tar"}
                self.save_model(self.epoch, self.output_dir, **best)
        if done == self.max_epoch or (freq > 0 and done % freq == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split=None):
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = "val" if (split or self.cfg.TEST.SPLIT) == "val" and self.val_loader else "test"
        print(f"Evaluate on the *{split}* set")
        for batch in self.val_loader if split == "val" else self.test_loader:
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return [*results.values()][0]

    def model_inference(self, input):
        return self.model(input)

    def parse_batch_test(self, batch):
        return [batch[key].to(self.device) for key in ("img", "label")]

    def get_current_lr(self, names=None):
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]


class TrainerX(SimpleTrainer):
    def run_epoch(self):
        self.set_model_mode("train")
        losses = MetricMeter()  # noqa: F821 (made below)
        self.num_batches = len(self.train_loader_x)
        for number, batch in enumerate(self.train_loader_x):
            self.batch_idx = number
            losses.update(self.forward_backward(batch))
            if (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0 or self.num_batches < self.cfg.TRAIN.PRINT_FREQ:
                print(f"epoch [{self.epoch + 1}/{self.max_epoch}] {losses} lr {self.get_current_lr():.4e}")
            for name, meter in losses.meters.items():
                self.write_scalar(f"train/{name}", meter.avg, self.epoch * self.num_batches + self.batch_idx)

    def parse_batch_train(self, batch):
        return [batch[key].to(self.device) for key in ("img", "label", "domain")]


WRITTEN = {name: value for name, value in globals().items() if getattr(value, "__module__", None) == __name__}


def signature_of(parameters):
    scope = {"InterpolationMode": InterpolationMode}
    exec(f"def stub({', '.join(parameters)}): pass", scope)
    return inspect.signature(scope["stub"])


def strict(name, parameters, function, bound=None):
    """Return a function that takes the listed parameters only.

    Args:
        name: for messages.
        parameters: as listed.
        function: called with them; None if `beneath` lacks it.
        bound: for a method of `beneath`: its name, called on the object's `_beneath`.
    """
    signature = signature_of(parameters)

    def call(*args, **kwargs):
        signature.bind(*args, **kwargs)
        if function is None:
            raise NotImplementedError(f"the stand-in has no {name}")
        target, args = (getattr(args[0]._beneath, bound), args[1:]) if bound else (function, args)
        return target(*map(whole, args), **{key: whole(value) for key, value in kwargs.items()})

    call.__name__, call.__signature__ = name, signature
    return call


def facade(name, entry, original, bases):
    """Return a class with the listed methods, whose objects pass them on to one of `beneath`'s class `original`."""
    attributes = ATTRIBUTES.get(name, {})
    members = {key: value for key, value in attributes.items() if value is not None}
    init = signature_of(entry["methods"].get("__init__", ["self"]))

    def __new__(cls, *args, **kwargs):
        if original is None:
            raise NotImplementedError(f"the stand-in has no {name}")
        made = object.__new__(cls)
        made.__dict__["_beneath"] = object.__new__(original)  # readers call methods before DatasetBase.__init__
        return made

    def __init__(self, *args, **kwargs):
        init.bind(self, *args, **kwargs)
        self._beneath.__init__(*map(whole, args), **{key: whole(value) for key, value in kwargs.items()})

    def __getattr__(self, key):
        if key not in attributes:
            raise AttributeError(f"upstream's {name} has no attribute {key!r}")
        return getattr(self.__dict__["_beneath"], key)

    for method, parameters in entry["methods"].items():
        static = inspect.getattr_static(original, method, None) if original else None
        if isinstance(static, property):
            members[method] = property(lambda self, method=method: getattr(self._beneath, method))
        elif isinstance(static, staticmethod) and parameters[:1] != ["self"]:
            members[method] = staticmethod(strict(method, parameters, getattr(original, method)))
        else:
            members[method] = strict(method, parameters, static, bound=method)
    return type(name, bases, {**members, "__new__": __new__, "__init__": __init__, "__getattr__": __getattr__})


def check_written(cls, entry):
    """Check that a class of this file has the listed methods with the listed parameters."""
    has = {}
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else value
        if inspect.isfunction(function):
            has[name] = inspect.signature(function)
    listed = {name: signature_of(parameters) for name, parameters in entry["methods"].items()}
    assert has == listed, f"{cls.__name__}: {has.keys() ^ listed.keys() or (has, listed)}"


def add_module(name):
    if name not in sys.modules:
        module = sys.modules[name] = ModuleType(name)
        module.__path__ = []
        parent, _, child = name.rpartition(".")
        setattr(add_module(parent), child, module)
    return sys.modules[name]


class Refuse:
    """A finder that ends the search for what is not listed: another `dassl` may be installed."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith("dassl."):
            raise ModuleNotFoundError(f"upstream has no module {name}", name=name)


def install():
    sys.meta_path.insert(0, Refuse())
    known = {"TorchDataset": Dataset, "Sampler": Sampler, **WRITTEN}
    for name in sorted(SIGNATURES, key=lambda name: name != "dassl.utils.registry"):  # registries are made of its class
        module, entries = add_module(name), SIGNATURES[name]
        try:
            ours = importlib.import_module(name.replace("dassl", "beneath", 1))
        except ImportError:
            ours = None
        for key, entry in entries.items():
            written, original = WRITTEN.get(key), getattr(ours, key, None)
            if isinstance(entry, list):
                value = strict(key, entry, original) if written is None else written
                assert written is None or inspect.signature(written) == signature_of(entry), key
            elif isinstance(entry, dict) and written is not None:
                check_written(value := written, entry)
            elif isinstance(entry, dict):
                bases = tuple(known[base] for base in entry["bases"] if base in known)
                value = facade(key, entry, original, tuple(base for base in bases if base is not Sampler))
            elif key.endswith("_REGISTRY"):
                value = known["Registry"](key.removesuffix("_REGISTRY"))
            else:
                value = get_cfg_default() if key == "_C" else original
            known[key] = value
            setattr(module, key, value)
            if isinstance(entry, dict):
                value.__module__ = name
    for package, modules in EXPORTS.items():
        for module, names in modules.items():
            source = sys.modules[f"dassl.{package}.{module}"]
            for key in names or SIGNATURES[source.__name__]:
                setattr(sys.modules[f"dassl.{package}"], key, getattr(source, key))
    evaluators = known["EVALUATOR_REGISTRY"]
    evaluators.register(known["Classification"])
    globals()["MetricMeter"] = known["MetricMeter"]


install()

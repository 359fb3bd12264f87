"""A strict stand-in for upstream Dassl; a test's checkout has this file as its `dassl/__init__.py`.

Beside it lie signatures.json, which lists upstream's modules, classes, methods and functions with their parameters, and
the package `beneath`, our toolbox under another name. What the list lacks does not exist, a call with other arguments
is a TypeError, and the configuration has upstream's keys alone.

standin_parts.py and standin_trainers.py hold what is written by upstream's documented behaviour, with its faults on
current PyTorch: warm-up and `load_model` without a result on validation fail. The rest is passed on to `beneath`; what
that lacks raises NotImplementedError.
"""

import importlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import standin_parts
import standin_trainers
from standin_parts import get_cfg_default, whole
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import InterpolationMode

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
WRITTEN = {
    name: value
    for module in (standin_parts, standin_trainers)
    for name, value in vars(module).items()
    if getattr(value, "__module__", None) == module.__name__
}


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


install()

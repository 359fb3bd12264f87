"""Read checkpoints that upstream Dassl pickled, without running code that a pickle may hold.

Beside tensors they hold schedulers and optimizers as objects, which are replaced by empty ones. All other classes and
functions but those listed here are refused before they are called. `torch.load` takes this module as `pickle_module`.
"""

import pickle

__all__ = ["Unpickler", "load"]

ALLOWED = {
    "collections": {"OrderedDict", "defaultdict"},
    "builtins": {
        "dict",
        "list",
        "tuple",
        "set",
        "int",
        "float",
        "complex",
        "bool",
        "str",
        "bytes",
        "bytearray",
        "slice",
    },
    "torch": {
        *("Size", "Tensor", "device", "dtype"),
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    },
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"},
    "torch.nn.parameter": {"Parameter"},
    "numpy": {"dtype", "ndarray", "float64", "float32", "int64", "bool_"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "_codecs": {"encode"},  # old pickles write the bytes of a NumPy number with it
}
# Python 2's names, which pickles of protocol 2 and lower use.
RENAMED = {"__builtin__": "builtins"}


class Discarded:
    """The empty object that replaces a scheduler or an optimizer."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class Unpickler(pickle.Unpickler):
    """An unpickler of the allowed classes and functions."""

    def find_class(self, module, name):
        module = RENAMED.get(module, module)
        if module == "torch.optim" or module.startswith("torch.optim."):
            return Discarded
        if name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which could run code")


def load(file, **options):
    """Return the content of a pickle, as `pickle.load` does; raise UnpicklingError for a class that is not allowed."""
    return Unpickler(file, **options).load()

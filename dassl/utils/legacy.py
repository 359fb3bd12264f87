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
        "slice",
    },
    "torch": {
        *("Size", "device", "dtype"),
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    },
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"},
    "torch.nn.parameter": {"Parameter"},
    "numpy": {"dtype", "float64", "float32", "int64", "bool_"},
    "numpy.core.multiarray": {"scalar"},
    "numpy._core.multiarray": {"scalar"},
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


def empty_array(*shape):
    """Return an array without values, which a pickle fills later; its own shape could be of any size."""
    import numpy as np

    return np.empty(0, np.int8)


def no_bytes():
    """Return b"", the only bytes that are pickled by a call."""
    return b""


# The arrays' function takes their class as an argument, and calls it.
REPLACED = {
    ("builtins", "bytes"): no_bytes,
    ("numpy", "ndarray"): Discarded,
    ("numpy.core.multiarray", "_reconstruct"): empty_array,
    ("numpy._core.multiarray", "_reconstruct"): empty_array,
}


class Unpickler(pickle.Unpickler):
    """An unpickler of the allowed classes and functions."""

    def find_class(self, module, name):
        module = RENAMED.get(module, module)
        if module == "torch.optim" or module.startswith("torch.optim."):
            return Discarded
        if (module, name) in REPLACED:
            return REPLACED[module, name]
        if name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which could run code")


def load(file, **options):
    """Return the content of a pickle, as `pickle.load` does; raise UnpicklingError for a class that is not allowed."""
    return Unpickler(file, **options).load()

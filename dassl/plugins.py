"""Plugins: modules of any package that register trainers or data sets when they are imported.

A package declares them in its setup.py under one entry-point group:

    entry_points={"dassl.plugins": ["mytrainers = mypackage.trainers"]}

So the toolbox finds them without importing a package above it by name.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path

GROUP = "dassl.plugins"
REPORTS = {}  # {title: function that returns a text}: rows that plugins add to python -m dassl.doctor
HOME = str(Path(__file__).parents[1])  # the checkout, or site-packages


@functools.cache
def load_plugins(leave_out=()):
    """Import every declared module once; skip those that cannot be imported, with a warning.

    Args:
        leave_out: Names of entry points to skip without a warning.

    Returns:
        {name of the entry point: reason} of the modules that are unavailable.
    """
    skipped = {}
    for name, module in sorted({(point.name, point.value) for point in importlib.metadata.entry_points(group=GROUP)}):
        if name not in leave_out:
            try:
                prefer_neighbour(module.split(".")[0])
                importlib.import_module(module)
            except Exception as error:  # a foreign package may raise anything
                skipped[name] = f"{module}: {type(error).__name__}: {' '.join(str(error).split())}"
                warnings.warn(f"plugin {name} is unavailable ({skipped[name]})", stacklevel=2)
    return skipped


def load_entry(group, name):
    """Return the object of an entry point, from the package of its name beside `dassl` if there is one.

    Raises:
        ImportError: No installed package declares it, or another package of its name is imported already.
    """
    found = list(importlib.metadata.entry_points(group=group, name=name))
    if not found:
        raise ImportError(f"no installed package offers {group}.{name}: install the checkout again, pip install -e .")
    prefer_neighbour(found[0].module.split(".")[0])
    return found[0].load()


def prefer_neighbour(package):
    """Import the package of this name from the folder that holds `dassl`, if it is there.

    Another one may come first on the path: Hugging Face's `datasets`, or the `trainers` of another checkout.

    Raises:
        ImportError: Another package of this name is imported already.
    """
    spec = PathFinder.find_spec(package, [HOME])
    if spec is None or spec.origin is None:
        return
    if package in sys.modules:
        used = getattr(sys.modules[package], "__file__", None) or "elsewhere"
        if Path(used).resolve() != Path(spec.origin).resolve():
            raise ImportError(f"{package} is in use from {used}, not from {spec.origin}")
        return
    module = sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[package]
        raise

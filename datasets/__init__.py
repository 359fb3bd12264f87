"""Every module in this folder is imported, so that its data sets register themselves."""

import importlib
import pkgutil

_COMMANDS = ("check", "prepare")  # run as python -m datasets.NAME: Python warns of modules that are imported before

for _module in pkgutil.iter_modules(__path__):
    if _module.name not in _COMMANDS:
        importlib.import_module(f"{__name__}.{_module.name}")

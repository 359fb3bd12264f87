"""Every module in this folder is imported, so that its trainers register themselves.

One that cannot be imported is left out with a warning: the others stay usable.
"""

import importlib
import pkgutil
import warnings

for _module in pkgutil.iter_modules(__path__):
    try:
        importlib.import_module(f"{__name__}.{_module.name}")
    except Exception as error:
        warnings.warn(f"{__name__}/{_module.name}.py is left out: {type(error).__name__}: {error}", stacklevel=2)

"""The part of the library that imports the toolbox, `dassl`: the base of all trainers, the predictor, the export.

A trainer uses the `dassl` on the path, so that it also works in other checkouts. A predictor needs the one beside
`sotglp`.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[2]


def use_own_dassl() -> None:
    """Import the `dassl` beside `sotglp`, even if another one comes first on the path.

    Raises:
        ImportError: this process has imported another one.
    """
    sys.path.insert(0, str(HOME))
    try:
        module = importlib.import_module("dassl")  # quick: it imports only `os`
    finally:
        sys.path.remove(str(HOME))
    folder, own = Path(module.__file__ or ".").resolve().parent, (HOME / "dassl").resolve()
    if folder != own:
        raise ImportError(
            f"sotglp.load needs {own}, but this process has imported {folder}: call it in another process"
        )


def offered(name: str) -> Any:
    """Return what a floor above the library offers under a name, by the entry-point group `sotglp` of setup.py.

    Raises:
        ImportError: this process has imported another `dassl`, or the checkout is not installed.
    """
    use_own_dassl()
    from dassl.plugins import load_entry

    return load_entry("sotglp", name)

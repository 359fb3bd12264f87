"""A file of reference numbers: what the published code of a method computes on a small CLIP."""

import json
import re
import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np

from dassl.config import flatten
from dassl.utils import UserError

SHIPPED = Path(__file__).parents[2] / "tests" / "data" / "sotglp_reference.npz"  # has the CLIP of files without one


class ReferenceFile:
    """Arrays of a file, its meta, and the settings in it.

    Args:
        path: of a .npz file.

    Attributes:
        arrays: {name: array}.
        meta: dict.
        method: its name, up to a blank; SOT-GLP's file names none.

    Raises:
        UserError: the file is missing, damaged, or no file of reference numbers.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as archive:
                self.arrays = dict(archive)
            self.meta = json.loads(str(self.arrays.pop("meta")))
            self.method = self.meta.get("method", "SOT-GLP").split(" ")[0]
        except (OSError, KeyError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no file of reference numbers: {error}") from error

    def __getitem__(self, name):
        return self.arrays[name]

    def __contains__(self, name):
        return name in self.arrays

    def under(self, prefix):
        """Return {name without prefix: array} of the names that start with it."""
        return {name.removeprefix(prefix): self.arrays[name] for name in self.arrays if name.startswith(prefix)}

    @cached_property
    def settings(self):
        """{key: value} of all hyper-parameters by their published names, "OPTIM.LR" too."""
        meta = self.meta
        settings = flatten({**meta.get("hyperparameters", {}), **meta.get("hyper_parameters", {})})
        return settings | {f"OPTIM.{key}": value for key, value in meta.get("optim", {}).items()}

    @property
    def optim(self):
        """{key: value} of the node OPTIM."""
        return {key: value for key, value in self.settings.items() if key.startswith("OPTIM.")}

    @property
    def dataset(self):
        """Registered name of the data set; "" if the method does not look at it."""
        return self.meta.get("dataset", "").split(" ")[0]

    def clip(self):
        """Return the CLIP's state dict in OpenAI's format, as {name: array}.

        Raises:
            UserError: the file that holds it is missing.
        """
        own = self.under("clip/")
        if "positional_embedding" in own:
            state = own
        else:
            named = re.search(r"[\w-]+\.npz", self.meta.get("clip", ""))
            name = named[0] if named else SHIPPED.name
            folders = self.path.parent, self.path.parent.parent, SHIPPED.parent
            base = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if base is None:
                raise UserError(f"{self.path} needs the CLIP of {name}: put that file beside it")
            with np.load(base, allow_pickle=False) as archive:
                state = {name.removeprefix("clip/"): archive[name] for name in archive if name.startswith("clip/")}
        if "token_embedding.rows" in own:
            rows, ids = own["token_embedding.rows"], own["token_embedding.ids"]
            full = state.get("token_embedding.weight", np.zeros((49408, rows.shape[1]), rows.dtype)).copy()
            full[ids] = rows
            state = {name: array for name, array in state.items() if not name.startswith("token_embedding.")}
            state["token_embedding.weight"] = full
        if "logit_scale" in self.meta or "logit_scale" in self:
            scale = self.meta["logit_scale"] if "logit_scale" in self.meta else self["logit_scale"]
            state["logit_scale"] = np.log(np.asarray(scale, np.float32))
        return state

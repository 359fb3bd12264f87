"""Files, seeds, names and the environment."""

import difflib
import importlib.metadata
import os
import os.path as osp
import platform
import random
import subprocess
import warnings

import numpy as np
import torch
from PIL import Image


class UserError(ValueError):
    """A mistake only the user can mend, told in one line: what was wrong, what is allowed, what to do.

    An error of a DataLoader worker is raised again with the text of a whole traceback as its message;
    its last line is the message that was written here, so only that is kept.
    """

    def __init__(self, message):
        last_line = message.strip().rpartition("\n")[2]
        super().__init__(last_line.removeprefix(f"{__name__}.UserError: "))


def mkdir_if_missing(dirname):
    """Make a folder and its parents; an empty name is the current folder."""
    os.makedirs(dirname or ".", exist_ok=True)


def check_isfile(fpath):
    """Return whether `fpath` is a file; warn if it is not."""
    found = osp.isfile(fpath)
    if not found:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return found


def listdir_nohidden(path, sort=False):
    """Names in a folder that do not start with a dot, in the file system's order unless `sort`."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def read_image(path, at_least=None):
    """Open an image as RGB.

    Args:
        at_least: (width, height) in pixels; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is not
            smaller. That is faster, but after resizing the pixels are not quite those of the whole image.

    Raises:
        UserError: the file is missing, damaged or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            if at_least:
                image.draft(None, at_least)
            return image.convert("RGB")
    except Exception as error:  # PIL's plugins raise many types for a damaged file
        raise UserError(f"cannot read image {path}: {type(error).__name__}: {error}") from error


def tolist_if_not(x):
    """Wrap anything that is not a list into one."""
    return x if isinstance(x, list) else [x]


def set_random_seed(seed):
    """Seed Python's random, NumPy's global generator and torch on CPU and every GPU."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def similar_names(name, available, count=3):
    """The names in `available` nearest to `name`, ignoring case; the best first, at most `count`."""
    by_lower = {other.lower(): other for other in available}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=count)]


def check_availability(requested, available, kind="name"):
    """Check that a name is one of those that exist.

    Raises:
        UserError: it is not; the message gives the nearest names and all of them.
    """
    if requested not in available:
        nearest = similar_names(requested, available)
        hint = f" (do you mean {' or '.join(nearest)}?)" if nearest else ""
        raise UserError(f'unknown {kind} "{requested}"{hint}; available: {", ".join(available)}')


def package_versions():
    """Versions of what a run's numbers depend on, as {name: version, or None if not installed}."""
    versions = {"python": platform.python_version()}
    names = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
    for name, distribution in {**names, "numpy": "numpy", "pillow": "pillow"}.items():
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder):
    """The commit that a checkout is at and whether files differ from it; None where that is not to be known."""
    git = ["git", "-C", folder]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes.strip())}


def collect_env_info():
    """Describe the machine and the libraries, one `name: value` line each.

    torch's own report starts about ten processes and takes a second or more; this one starts none.
    """
    info = {
        "os": platform.platform(),
        "cpu": f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads",
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
        "cuda": torch.version.cuda or "none",
        "cudnn": torch.backends.cudnn.version() or "none",
    }
    return "\n".join(f"{name}: {value}" for name, value in {**package_versions(), **info}.items())

"""Files, seeds, names and the environment.

Functions import numpy, Pillow and torch, so that commands answer --help without them.
"""

import difflib
import importlib.metadata
import os
import os.path as osp
import platform
import random
import subprocess
import sys
import warnings

from .commands import UserError
from .distributed import same_seed, world_size
from .files import read_json, write_json  # noqa: F401 (other repositories import them from here)


def mkdir_if_missing(dirname):
    """Make a folder and its parents; an empty name means the current folder."""
    os.makedirs(dirname or ".", exist_ok=True)


def check_isfile(fpath):
    """Return whether `fpath` is a file; warn if it is not."""
    found = osp.isfile(fpath)
    if not found:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return found


def listdir_nohidden(path, sort=False):
    """Return the names in a folder that do not start with a dot, in the file system's order or sorted."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def read_image(path, at_least=None, exif=True, background="white", truncated=False, remarks=None):
    """Return an image as a PIL image in RGB; the one function that reads images. Arguments as in `images.open_image`.

    Raises:
        UserError: The file is missing, damaged or no image.
    """
    from .images import open_image

    try:
        return open_image(path, at_least, exif, background, truncated, remarks)
    except FileNotFoundError as error:
        raise UserError(f"cannot read image {path}: there is no such file") from error
    except Exception as error:  # PIL's plugins raise many types for a damaged file
        raise UserError(f"cannot read image {path}: {' '.join(str(error).split()) or type(error).__name__}") from error


def tolist_if_not(x):
    """Return a list as it is, and anything else in a list."""
    return x if isinstance(x, list) else [x]


def set_random_seed(seed):
    """Seed Python's and NumPy's global generators, and torch's on the CPU and all GPUs."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_determinism(seed):
    """Seed all generators and make results repeatable on the same machine; below 0, the run is random."""
    import torch

    if seed < 0 and world_size() > 1:
        set_random_seed(same_seed())
    if seed < 0:
        torch.backends.cudnn.benchmark = True
        return
    set_random_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS results vary
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it is slow and only helps to find bugs


def similar_names(name, available, count=3):
    """Return up to `count` names in `available` that are similar to `name`, the most similar first; case is ignored."""
    by_lower = {other.lower(): other for other in available}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=count)]


def check_availability(requested, available, kind="name"):
    """Check that a name is known.

    Args:
        requested: The name.
        available: The known names.
        kind: What the name stands for, for the error message.

    Raises:
        UserError: It is unknown; the message gives similar names and all known names.
    """
    if requested not in available:
        nearest = similar_names(requested, available)
        hint = f" (do you mean {' or '.join(nearest)}?)" if nearest else ""
        raise UserError(f'unknown {kind} "{requested}"{hint}; available: {", ".join(available)}')


def package_versions():
    """Return {package: version} of the packages that results depend on; the version is None if it is missing."""
    versions = {"python": platform.python_version()}
    names = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
    for name, distribution in {**names, "numpy": "numpy", "pillow": "pillow"}.items():
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state(folder):
    """Return {"commit": hash, "dirty": whether files differ from it} of a checkout; None if git cannot say."""
    git = ["git", "-C", folder]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes.strip())}


def machine():
    """Return processor, cores and operating system in words."""
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def choose_device(use_gpu=True):
    """Return the torch device of a run: a CUDA GPU, Apple's (MPS), or the CPU, the first that there is."""
    import torch  # here, so that commands answer --help without it

    if use_gpu and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if use_gpu and torch.backends.mps.is_available() else "cpu")


def peak_memory(device):
    """Return the most memory that this process has had at once, in GiB: {"process": of all, "gpu": of torch's tensors}.

    Args:
        device: The torch device of the model; "gpu" is None on the CPU.
    """
    import torch

    gpu = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {"process": round(most_bytes_of_process() / 2**30, 3), "gpu": gpu and round(gpu, 3)}


def most_bytes_of_process():
    """Return the most memory that this process has had at once, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def collect_env_info():
    """Return a description of the machine and the libraries in lines "name: value".

    torch's own report takes a second or more, because it starts about ten processes.
    """
    import torch

    info = {
        "os": platform.platform(),
        "cpu": f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads",
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        or ("mps" if torch.backends.mps.is_available() else "none"),
        "cuda": torch.version.cuda or "none",
        "cudnn": torch.backends.cudnn.version() or "none",
    }
    return "\n".join(f"{name}: {value}" for name, value in {**package_versions(), **info}.items())

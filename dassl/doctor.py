"""What this machine and checkout have, on one screen: python -m dassl.doctor [--root data]

Exit code: 0 even if it names problems; 2 for a wrong argument.
"""

import argparse
import importlib
import importlib.util
import os
import os.path as osp
import shutil
import warnings

import torch
from tabulate import tabulate

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import package_versions

OURS = (  # files in trainers/
    *("sotglp", "zsclip", "coop", "cocoop", "kgcoop", "prograd", "plot", "locoop", "gallop"),
    *("tipadapter", "linearprobe", "cliplora", "maple", "promptsrc", "tcp"),
)


def try_import(name):
    """(module, None), or (None, why it cannot be imported)."""
    try:
        return importlib.import_module(name), None
    except Exception as error:  # third-party files may fail in any way
        return None, f"{type(error).__name__}: {error}"


def describe_device():
    count = torch.cuda.device_count()
    if not count:
        return f"CPU, {torch.get_num_threads()} threads"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"


def describe_weights():
    """Names of the CLIPs whose weights are on this machine."""
    backbones, error = try_import("sotglp.backbones")
    if error:
        return f"sotglp is not installed ({error}): pip install -e ."
    return ", ".join(["small", *backbones.cached_backbones()])


def describe_datasets(root):
    """Names of the readers whose folder is under `root`, and of the others."""
    found, absent = [], []
    for name in DATASET_REGISTRY.registered_names():
        folder = DATASET_REGISTRY.get(name).dataset_dir
        if folder:  # else a user's own images, which have no fixed place
            (found if osp.isdir(osp.join(root, folder)) else absent).append(name)
    return ", ".join(found) or "none", ", ".join(absent) or "none"


def describe_trainers():
    """Names of our trainers, and of third parties' with their files."""
    ours, others = [], []
    for name in TRAINER_REGISTRY.registered_names():
        module = TRAINER_REGISTRY.get(name).__module__
        is_ours = module.removeprefix("trainers.") in OURS
        ours.append(name) if is_ours else others.append(f"{name} ({module.replace('.', '/')}.py)")
    return ", ".join(ours) or "none", ", ".join(others) or "none"


def find_problems():
    """What is known to go wrong on a machine like this one, a line each."""
    problems = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if torch.cuda.device_count() > 1:
        problems.append(f"CUDA_VISIBLE_DEVICES is {visible}: trainers may use DataParallel, slower than one GPU")
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        problems.append("there is an NVIDIA driver, but this build of torch sees no GPU of it")
    if importlib.util.find_spec("pkg_resources") is None:
        problems.append("no pkg_resources: OpenAI's clip package and copies of it cannot be imported; ours can")
    for name in ("clip", "datasets", "trainers", "dassl"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and osp.dirname(osp.dirname(spec.origin)) != osp.dirname(osp.dirname(__file__)):
            problems.append(f"{name} is imported from {osp.dirname(spec.origin)}, not from this checkout")
    return problems


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of the data sets")
    root = parser.parse_args(argv).root
    problems = find_problems()
    for package in ("datasets", "trainers"):  # of this checkout, or of the repository that this is run in
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            _, error = try_import(package)
        problems += [f"{package}: {error}"] if error else []
        problems += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    found, absent = describe_datasets(root)
    ours, others = describe_trainers()
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in package_versions().items())
    rows = [
        ("versions", versions),
        ("device", describe_device()),
        ("CLIP weights", describe_weights()),
        (f"data sets in {root}", found),
        ("others known", absent),
        ("trainers", ours),
        ("third-party trainers", others),
        *(("problem", problem) for problem in problems or ["none known"]),
    ]
    print(tabulate(rows, tablefmt="plain", maxcolwidths=[None, 76]))


if __name__ == "__main__":
    main()

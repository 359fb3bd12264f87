"""Report versions, devices, data sets and known problems on one screen: python -m dassl.doctor [--root data]

python -m dassl.doctor REPOSITORY reads a repository that was written for Dassl and reports what this toolbox lacks for
it: names that it imports, members, arguments, config keys and flags, a line each. Nothing of the repository is run.

Exit code: 0 even if there are problems, 2 a user's mistake, 130 interrupted.
"""

import importlib.util
import os
import os.path as osp
import shutil
import sys
import warnings

from tabulate import tabulate

from dassl.plugins import REPORTS, load_plugins
from dassl.utils import Parser, UserError, command, package_versions


def describe_device():
    """Return the GPUs and their memory, or the CPU and its threads."""
    import torch  # here, because it takes seconds

    count = torch.cuda.device_count()
    if not count:
        apple = "Apple's GPU (MPS), " if torch.backends.mps.is_available() else ""
        return f"{apple}CPU, {torch.get_num_threads()} threads"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"


def describe_datasets(root):
    """Return the names of the data sets with a folder under `root`, and those of the others, as two texts."""
    from dassl.data.datasets import DATASET_REGISTRY

    found, absent = [], []
    for name in DATASET_REGISTRY.registered_names():
        folder = DATASET_REGISTRY.get(name).dataset_dir
        if folder:  # own images have no fixed folder
            (found if osp.isdir(osp.join(root, folder)) else absent).append(name)
    return ", ".join(found) or "none", ", ".join(absent) or "none"


def find_problems():
    """Return the known problems of this machine, a line each."""
    import torch

    problems = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if torch.cuda.device_count() > 1:
        problems.append(f"CUDA_VISIBLE_DEVICES is {visible}: trainers may use DataParallel, slower than one GPU")
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        problems.append("there is an NVIDIA driver, but this build of torch finds no GPU")
    if importlib.util.find_spec("pkg_resources") is None:
        problems.append("pkg_resources is missing: OpenAI's clip and its copies cannot be imported; this one can")
    for name in ("clip", "datasets", "trainers"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and osp.dirname(osp.dirname(spec.origin)) != osp.dirname(osp.dirname(__file__)):
            problems.append(f"{name} is imported from {osp.dirname(spec.origin)}, not from this checkout")
    return problems


def describe_repository(folder):
    """Return what the toolbox lacks for the repository in a folder, a line each.

    Raises:
        UserError: There is no such folder.
    """
    from dassl.lacking import report  # here, as the rest of it imports torch
    from dassl.repository import read_repository

    if not osp.isdir(folder):
        raise UserError(f"no folder at {folder}")
    return report(read_repository(folder))


@command
def main(argv=None):
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("--root", default="data", help="folder of the data sets")
    parser.add_argument("repository", nargs="?", help="folder of a repository to read")
    args = parser.parse_args(argv)
    if args.repository is not None:
        print(*describe_repository(args.repository), sep="\n")
        return
    root = args.root
    problems = find_problems()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        load_plugins()
    problems += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    found, absent = describe_datasets(root)
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in package_versions().items())
    rows = [
        ("versions", versions),
        ("device", describe_device()),
        (f"data sets in {root}", found),
        ("others known", absent),
        *((title, describe()) for title, describe in REPORTS.items()),
        *(("problem", problem) for problem in problems or ["none known"]),
    ]
    print(tabulate(rows, tablefmt="plain", maxcolwidths=[None, 76]))


if __name__ == "__main__":
    sys.exit(main())

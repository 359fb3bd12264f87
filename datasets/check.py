"""What there is of each data set, and what to do next: python -m datasets.check [NAME ...] --root DATA [--deep]

Exit code: 0 all is well, 2 a mistake of the user, 130 interrupted, 1 something is amiss: a data set that is there is
incomplete or damaged, or one that was named is missing.
"""

import argparse
import os
import os.path as osp
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool

from tabulate import tabulate
from tqdm import tqdm

import datasets  # noqa: F401 (registers the readers)
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError, check_availability, read_image
from datasets.ood import OOD_SETS, SOURCE, read_ood
from datasets.prepare import DOWNLOADS, is_prepared_here, next_steps


@dataclass
class Finding:
    """What was found of a data set: its images by split, and what to do about what was not."""

    name: str
    state: str  # found, missing, incomplete or damaged
    splits: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)
    unreadable: list = None  # if looked for

    def row(self):
        counts = [f"{len(self.splits[split]):,}" if split in self.splits else "" for split in ("train", "val", "test")]
        return [self.name, self.state, *counts, "" if self.unreadable is None else len(self.unreadable)]


def known_names():
    """Data sets that have a folder under the root: not a user's own, which have no fixed place."""
    readers = [name for name in DATASET_REGISTRY.registered_names() if DATASET_REGISTRY.get(name).dataset_dir]
    return [*readers, *OOD_SETS]


def check(name, root):
    """Return the Finding of a data set."""
    is_ood = name in OOD_SETS
    folder = osp.join(root, OOD_SETS[name] if is_ood else DATASET_REGISTRY.get(name).dataset_dir)
    if not osp.isdir(folder):
        return Finding(name, "missing", steps=[first_step(name, root, folder)])
    try:
        if is_ood:
            return Finding(name, "found", {"test": read_ood(name, root)})
        missing = next_steps(name, root) if is_prepared_here(name) else []
        if missing:
            return Finding(name, "incomplete", steps=missing)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            dataset = DATASET_REGISTRY.get(name)(make_cfg(root))
    except (UserError, OSError) as error:
        return Finding(name, "damaged", steps=[" ".join(str(error).split())])
    splits = {"train": dataset.train_x, "val": dataset.val, "test": dataset.test}
    return Finding(name, "found", {split: items for split, items in splits.items() if items})


def first_step(name, root, folder):
    """The next step for a data set of which there is nothing."""
    if name in OOD_SETS:
        return f"put its images into {folder}: {SOURCE}"
    if not is_prepared_here(name):
        return "its reader says what it needs; what comes with the repository is unpacked on first use"
    how = "downloads its images" if name in DOWNLOADS else "says where to get it"
    return f"python -m datasets.prepare {name} --root {root} {how}"


def make_cfg(root):
    cfg = get_cfg_default()
    DATASET_REGISTRY.extend_cfg(cfg)
    cfg.DATASET.ROOT = root
    return cfg


def find_unreadable(finding):
    """List the lines that say which images of a data set cannot be decoded; a bar shows how far it is."""

    def problem(path):
        try:
            read_image(path)
        except UserError as error:
            return str(error)

    paths = sorted({item.impath for items in finding.splits.values() for item in items})
    with ThreadPool() as pool:  # threads: PIL decodes without holding the interpreter's lock
        results = tqdm(pool.imap(problem, paths, chunksize=16), total=len(paths), desc=finding.name)
        return [line for line in results if line]


def main(argv=None):
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all if none is given: {', '.join(known_names())}")
    parser.add_argument("--root", default="data", help="folder of the data sets")
    parser.add_argument("--deep", action="store_true", help="decode each image")
    args = parser.parse_args(argv)
    root = osp.expanduser(args.root)
    try:
        for name in args.names:
            check_availability(name, known_names(), "data set")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    findings = [check(name, root) for name in args.names or known_names()]
    if args.deep:
        for finding in findings:
            if finding.state == "found":
                finding.unreadable = find_unreadable(finding)
    headers = ["data set", "state", "train", "val", "test", *(["unreadable"] if args.deep else [])]
    print(tabulate([finding.row()[: len(headers)] for finding in findings], headers, disable_numparse=True))
    steps = [f"{finding.name}: {step}" for finding in findings for step in finding.steps]
    steps += [f"copy anew: {line}" for finding in findings for line in finding.unreadable or ()]
    print(*(["\nNext:", *steps] if steps else []), sep="\n")
    fine = ("found",) if args.names else ("found", "missing")
    return int(any(finding.state not in fine or finding.unreadable for finding in findings))


if __name__ == "__main__":
    sys.exit(main())

"""List which data sets are complete, and the next step for the others: python -m datasets.check [NAME ...] --root DATA

Exit code: 0 all is well, 1 a data set is incomplete or damaged, or a named one is missing, 2 a user's mistake,
130 interrupted.
"""

import os
import os.path as osp
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool

from tabulate import tabulate
from tqdm import tqdm

from dassl.config import get_cfg_default
from dassl.utils import Parser, UserError, check_availability, command, read_image
from datasets.copies import copies_in_words, portrait
from datasets.ood import OOD_SETS, read_ood, source_of
from datasets.prepare import DOWNLOADS, is_prepared_here, next_steps, registry


@dataclass
class Finding:
    """The state of a data set on the disk.

    Attributes:
        name: Name of the data set.
        state: "found", "missing", "incomplete" or "damaged".
        splits: {split: list of Datum} of the splits that have images.
        steps: What to do next, a line each.
        unreadable: An error message for each image that cannot be decoded; None without --deep.
        copies: Lines about images that are in several splits; none without --deep.
    """

    name: str
    state: str
    splits: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)
    unreadable: list = None
    copies: list = field(default_factory=list)

    def row(self):
        """Return the row of the table: name, state, number of images by split, number of unreadable images."""
        counts = [f"{len(self.splits[split]):,}" if split in self.splits else "" for split in ("train", "val", "test")]
        return [self.name, self.state, *counts, "" if self.unreadable is None else len(self.unreadable)]


def known_names():
    """Return the names of all data sets with a fixed folder under the root; a user's own images have none."""
    readers = [name for name in registry().registered_names() if registry().get(name).dataset_dir]
    return [*readers, *OOD_SETS]


def own_names():
    """Return the names of the readers of a user's own images."""
    return [name for name in registry().registered_names() if not registry().get(name).dataset_dir]


def check(name, root):
    """Return the Finding of a data set."""
    is_ood = name in OOD_SETS
    folder = osp.join(root, OOD_SETS[name] if is_ood else registry().get(name).dataset_dir)
    if not osp.isdir(folder):
        return Finding(name, "missing", steps=[first_step(name, root, folder)])
    try:
        if is_ood:
            return Finding(name, "found", {"test": read_ood(name, root)})
        missing = next_steps(name, root) if is_prepared_here(name) else []
        if missing:
            return Finding(name, "incomplete", steps=missing)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            dataset = registry().get(name)(make_cfg(root))
    except (UserError, OSError) as error:
        return Finding(name, "damaged", steps=[" ".join(str(error).split())])
    splits = {"train": dataset.train_x, "val": dataset.val, "test": dataset.test}
    return Finding(name, "found", {split: items for split, items in splits.items() if items})


def first_step(name, root, folder):
    """Return the next step for a data set whose folder is missing."""
    if name in OOD_SETS:
        return f"put its images into {folder}: {source_of(name)}"
    if not is_prepared_here(name):
        return "its reader lists its files; data sets of this repository are unpacked on first use"
    how = "downloads its images" if name in DOWNLOADS else "prints where to get it"
    return f"python -m datasets.prepare {name} --root {root} {how}"


def make_cfg(root):
    """Return the default configuration with the readers' keys and `root`."""
    cfg = get_cfg_default()
    registry().extend_cfg(cfg)
    cfg.DATASET.ROOT = root
    return cfg


def look_at_images(finding):
    """Set what --deep finds: images of a Finding that cannot be decoded, and copies; show a progress bar."""

    def look(path):
        try:
            image = read_image(path)
        except UserError as error:
            return str(error), None
        try:
            return None, portrait(image)
        except ImportError:
            return None, None

    paths = sorted({item.impath for items in finding.splits.values() for item in items})
    with ThreadPool() as pool:  # threads: PIL decodes without holding the interpreter's lock
        results = list(tqdm(pool.imap(look, paths, chunksize=16), total=len(paths), desc=finding.name))
    finding.unreadable = [line for line, _ in results if line]
    portraits = {path: seen for path, (_, seen) in zip(paths, results, strict=True) if seen is not None}
    if len(finding.splits) > 1:
        missing = not portraits and len(finding.unreadable) < len(paths)
        finding.copies = copies_in_words(list(finding.splits.values()), None if missing else portraits)


@command
def main(argv=None):
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="data set as in DATASET.NAME; default: all but your own"
    )
    parser.add_argument(
        "--root", default="data", help="folder of the data sets; for ImageFolder and CSV, of the images"
    )
    parser.add_argument("--deep", action="store_true", help="decode each image, and look for copies between splits")
    args = parser.parse_args(argv)
    root, known = osp.expanduser(args.root), known_names()
    for name in args.names:
        check_availability(name, [*known, *own_names()], "data set")
    findings = [check(name, root) for name in args.names or known]
    if args.deep:
        for finding in findings:
            if finding.state == "found":
                look_at_images(finding)
    headers = ["data set", "state", "train", "val", "test", *(["unreadable"] if args.deep else [])]
    print(tabulate([finding.row()[: len(headers)] for finding in findings], headers, disable_numparse=True))
    steps = [f"{finding.name}: {step}" for finding in findings for step in finding.steps]
    steps += [f"copy anew: {line}" for finding in findings for line in finding.unreadable or ()]
    print(*(["\nNext:", *steps] if steps else []), sep="\n")
    copies = [f"in {finding.name}: {line}" for finding in findings for line in finding.copies]
    print(*(["\nTested images should not be trained on:", *copies] if copies else []), sep="\n")
    fine = ("found",) if args.names else ("found", "missing")
    return int(any(finding.state not in fine or finding.unreadable for finding in findings))


if __name__ == "__main__":
    sys.exit(main())

"""The images in folders as people have them: at any depth, among other files, reached by links."""

import hashlib
import os
import os.path as osp
from collections import Counter, defaultdict

from dassl.utils import UserError

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".pfm", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".mpo", ".tga"),
    *(".ico", ".icns", ".qoi", ".psd", ".pcx", ".sgi", ".dds", ".xbm", ".xpm"),
)
FEWSHOT_FOLDER = "split_fewshot"  # our own records
# Folders that systems and programs make; beside them those whose name begins with a dot.
SYSTEM_FOLDERS = (
    *("__macosx", "@eadir", "lost+found", "__pycache__", "$recycle.bin", "system volume information", "recycler"),
    *("@recycle", "#recycle", "#snapshot", "@recently-snapshot", "found.000"),
)
# What people call a split, in small letters.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


class LeftOut(Counter):
    """{kind: number} of what a reader found and left out."""

    KINDS = {
        "file": ("file that is no image", "files that are no images"),
        "hidden": ("hidden file", "hidden files"),
        "outside": ("image outside the class folders", "images outside the class folders"),
        "link": ("link to what is read already", "links to what is read already"),
        "system": ("hidden or system folder", "hidden or system folders"),
    }

    def __init__(self):
        super().__init__()
        self.folders = []  # names of folders that are not understood

    def __str__(self):
        parts = [f"{self[kind]} {words[self[kind] > 1]}" for kind, words in self.KINDS.items() if self[kind]]
        if self.folders:
            number = len(self.folders)
            parts.append(f"{number} folder{'s' * (number > 1)} ({shortened(self.folders)})")
        return f"left out: {', '.join(parts)}" if parts else ""


def shortened(names, most=5):
    """Return names in one line, the first ones of many."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_name(folder, name):
    """Return the name of a file.

    Raises:
        UserError: A line of a text file cannot hold the name.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: the name {name!a} is not valid UTF-8: rename it") from None
    if name.splitlines() != [name]:
        raise UserError(f"{folder}: the name {name!a} has a line break: rename it")
    return name


def is_image(name):
    """Return whether a file's name ends as that of an image."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def is_system(name):
    """Return whether a folder is hidden, or made by a system or a program."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def link_free_walk(folder, left_out=None):
    """Return the sorted paths of the images under `folder`; links are followed, but no folder is read twice.

    Args:
        folder: The folder.
        left_out: A LeftOut, to which is added what else is there.

    Raises:
        UserError: A line of a text file cannot hold the name of an image.
        OSError: A folder cannot be listed.
    """

    def stop(error):
        raise error

    left_out = LeftOut() if left_out is None else left_out
    seen, paths = set(), []
    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = osp.realpath(parent)
        if real in seen:
            folders.clear()  # a link to a folder above it: a loop
            left_out["link"] += 1
            continue
        seen.add(real)
        left_out["system"] += sum(map(is_system, folders))
        folders[:] = sorted(name for name in folders if not is_system(name))
        for name in names:
            if name.startswith("."):
                left_out["hidden"] += 1
            elif is_image(name):
                paths.append(osp.join(parent, check_name(parent, name)))
            else:
                left_out["file"] += 1
    return sorted(paths)


def subfolders(folder, left_out=None):
    """Return the sorted names of the folders in `folder` that a system has not made.

    Raises:
        UserError: A link is broken, which may be a class.
        OSError: The folder cannot be listed.
    """
    names = []
    for name in sorted(os.listdir(folder)):
        path = osp.join(folder, name)
        if name.startswith(".") and not osp.isdir(path):
            continue
        if osp.islink(path) and not osp.exists(path):
            raise UserError(f"{path} is a broken link: repair or delete it")
        if not osp.isdir(path) or name == FEWSHOT_FOLDER:
            continue
        if not is_system(name):
            names.append(check_name(folder, name))
        elif left_out is not None:
            left_out["system"] += 1
    return names


def count_files(folder, left_out, known=()):
    """Add the files in a folder that holds folders of images to a LeftOut; those with a name in `known` are read."""
    for name in os.listdir(folder):
        if name in known or not osp.isfile(osp.join(folder, name)):
            continue
        left_out["hidden" if name.startswith(".") else "outside" if is_image(name) else "file"] += 1


def without_links(splits, left_out):
    """Return lists of Datum, each image once, by whatever paths and links it is reached.

    Args:
        splits: {name of a split: list of Datum}.
        left_out: A LeftOut, to which repetitions within a split are added.

    Raises:
        FileNotFoundError: An image is missing.
        UserError: An image is in two splits, or of two classes.
    """
    seen, kept = {}, {split: [] for split in splits}
    for split, items in splits.items():
        for item in items:
            try:
                file = os.stat(item.impath)
            except OSError:
                raise FileNotFoundError(f"no image at {item.impath}") from None
            first_split, first = seen.setdefault((file.st_dev, file.st_ino), (split, item))
            if first is item:
                kept[split].append(item)
            elif first_split != split:
                raise UserError(
                    f"{item.impath} is in {split} and, as {first.impath}, in {first_split}: tested images must not be "
                    "trained on, so take it out of one of them"
                )
            elif first.label != item.label:
                raise UserError(
                    f'{item.impath} is of class "{item.classname}" and, as {first.impath}, of class '
                    f'"{first.classname}": take it out of one of them'
                )
            else:
                left_out["link"] += 1
    return list(kept.values())


def equal_bytes(splits):
    """Return pairs of paths with equal bytes in different splits: each image of a later split at most once.

    Args:
        splits: Lists of Datum.
    """
    by_size = defaultdict(list)
    for number, items in enumerate(splits):
        for item in items:
            by_size[osp.getsize(item.impath)].append((number, item.impath))
    pairs = []
    for group in by_size.values():
        if len({number for number, _ in group}) > 1:
            first = {}
            for number, path in group:  # in the order of the splits
                with open(path, "rb") as file:
                    known = first.setdefault(hashlib.blake2b(file.read()).digest(), (number, path))
                if known[0] != number:
                    pairs.append((known[1], path))
    return pairs

"""What the readers share: pieces on the disk, lists of files, splits and few-shot draws."""

import os.path as osp
import random

from dassl.data.datasets import DatasetBase, Datum
from dassl.utils import UserError, listdir_nohidden, read_json, write_json
from datasets.files import FEWSHOT_FOLDER, check_name, is_image, subfolders

SPLITS = ("train", "val", "test")


class Reader(DatasetBase):
    """Base of the readers: it lists the files that a data set lacks and records few-shot draws.

    Args:
        cfg: The configuration.
        train: List of Datum with the labels 0, 1, 2, ...
        val: List of Datum with labels of `train`.
        test: List of Datum with labels of `train`.

    Raises:
        FileNotFoundError: An image does not exist.
        UserError: A label has several class names or no training image, or fewer than DATASET.NUM_SHOTS, if
            DATASET.FEW_IMAGES is stop.
    """

    pieces = {}  # {path in the folder of the data set: what it holds and where to get it}

    @staticmethod
    def extend_cfg(cfg):
        cfg.DATASET.MAKE_SPLIT = False  # make a split where the published split file is missing

    def __init__(self, cfg, train, val, test):
        check_labels(self.folder(cfg), train, val, test)
        train, val = self.few_shot(cfg, train, val)
        train, val, test = self.subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)

    @classmethod
    def folder(cls, cfg):
        """Return the absolute path of the data set's folder."""
        return osp.abspath(osp.join(osp.expanduser(cfg.DATASET.ROOT), cls.dataset_dir))

    @classmethod
    def missing_pieces(cls, folder):
        """Return {path: error message with its source} for each piece that `folder` lacks."""
        lines = {}
        for piece, source in cls.pieces.items():
            path = osp.join(folder, piece)
            if not osp.exists(path):
                lines[path] = f"no {'file' if osp.splitext(piece)[1] else 'folder'} {path}: {source}"
        return lines

    @classmethod
    def find_pieces(cls, cfg, can_do_without=()):
        """Return the folder of the data set, in which all pieces exist.

        Args:
            cfg: The configuration.
            can_do_without: Paths of pieces that may be missing.

        Raises:
            FileNotFoundError: A piece is missing.
        """
        for path, line in cls.missing_pieces(cls.folder(cfg)).items():
            if path not in can_do_without:
                raise FileNotFoundError(line)
        return cls.folder(cfg)

    def few_shot(self, cfg, train, val=None):
        """Draw as DatasetBase does, and record the draw in split_fewshot/shot_{K}-seed_{S}.json.

        The record is for people; no run reads it. A draw takes numbers from Python's `random`, so a run that
        read its images from a file instead would continue with other numbers. For the same reason no run reads
        upstream's pickles in that folder. Draws without a seed (-1) are not recorded.
        """
        train, val = super().few_shot(cfg, train, val)
        if cfg.DATASET.NUM_SHOTS > 0 and cfg.SEED >= 0:
            folder = self.folder(cfg)
            record = {
                split: [[osp.relpath(item.impath, folder), item.label, item.classname] for item in items]
                for split, items in (("train", train), ("val", val or []))
            }
            path = osp.join(folder, FEWSHOT_FOLDER, f"shot_{cfg.DATASET.NUM_SHOTS}-seed_{cfg.SEED}.json")
            try:
                write_json(record, path)
            except UserError as error:  # data are often on a read-only disk
                self.say(f"the few-shot draw is not recorded: {error}")
        return train, val


def check_labels(folder, train, val, test):
    """Check the labels of a data set.

    Raises:
        UserError: The labels are not 0, 1, 2, ..., a label has several class names or no training image, or there
            are no training or no test images.
    """
    names = {}
    for item in (*train, *val, *test):
        if names.setdefault(item.label, item.classname) != item.classname:
            raise UserError(f'{folder}: label {item.label} is both "{names[item.label]}" and "{item.classname}"')
    trained = {item.label for item in train}
    for label in sorted({*names, *range(len(trained))}):
        if label not in trained:
            raise UserError(f'{folder}: class {label} ("{names.get(label, "?")}") has no training images')
    if not (train and test):
        raise UserError(f"{folder} has no {'test' if train else 'training'} images")


def class_folders(folder):
    """Return the sorted names of the folders in `folder`.

    Raises:
        UserError: There are no folders, or a link is broken, which may be a class.
        OSError: The folder cannot be listed.
    """
    names = subfolders(folder)
    if not names:
        raise UserError(f"{folder} has no folders: it should hold one folder of images per class")
    return names


def image_names(folder):
    """Return the names of the images in `folder`, by their extensions.

    They are sorted, because their order decides which images a few-shot draw takes.

    Raises:
        UserError: There are no images.
    """
    names = [name for name in listdir_nohidden(folder, sort=True) if is_image(name)]
    if not names:
        raise UserError(f"{folder} has no images (.jpg, .png, ...): add some, or delete the folder")
    return [check_name(folder, name) for name in names]


def read_lines(path):
    """Return the lines of a text file that are not blank, stripped.

    Raises:
        UserError: The file is not in UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error.reason}): copy it anew") from error


def read_json_file(path):
    """Return the content of a JSON file.

    Raises:
        UserError: The file is not valid JSON.
    """
    try:
        return read_json(path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy it anew") from error


def parse_words(path, line, count):
    """Return the first `count` words of a line, the last with the rest of the line.

    Args:
        path: File of the line, for the error message.
        line: A line of it.
        count: Number of words.

    Raises:
        UserError: The line has fewer words.
    """
    words = line.split(None, count - 1)
    if len(words) < count:
        raise UserError(f'{path}: a line should have {count} words, got "{line}"')
    return words


def split_by_class(items, shares):
    """Split each class at random into parts.

    The split does not depend on the seed of the run, so no run tests images that another run was trained on. A class
    of few images has one in each part as far as they go, the part with the largest share first: of (0.5, 0.2) and the
    rest, two images go to the first and the last part, and one to the first.

    Args:
        items: List of Datum.
        shares: Share of each part but the last, which takes the rest: (0.5, 0.2) gives 50, 20 and 30 %.

    Returns:
        A list of Datum for each part.
    """
    generator = random.Random(0)
    parts = [[] for _ in (*shares, None)]
    for members in DatasetBase.split_dataset_by_label(items).values():
        generator.shuffle(members)
        for part, size in zip(parts, sizes_of_parts(len(members), shares), strict=True):
            part += members[:size]
            members = members[size:]
    return parts


def sizes_of_parts(number, shares):
    """Return the numbers of images in the parts of `split_by_class`."""
    sizes = [round(share * number) for share in shares]
    sizes.append(number - sum(sizes))
    if min(sizes) > 0:
        return sizes
    whole = [*shares, 1 - sum(shares)]
    first = sorted(range(len(whole)), key=lambda part: -whole[part])
    sizes = [0] * len(whole)
    for i in range(number):
        sizes[first[i] if i < len(first) else first[0]] += 1
    return sizes


def read_class_folders(folder, names, present=None):
    """Return the images of <folder>/<class folder>/ as a list of Datum.

    Args:
        folder: Folder of the class folders.
        names: {class folder: class name} in the order of the labels.
        present: The class folders that exist; None for all.

    Raises:
        UserError: A class folder has no images.
    """
    return [
        Datum(osp.join(folder, directory, file), label=label, classname=name)
        for label, (directory, name) in enumerate(names.items())
        if present is None or directory in present
        for file in image_names(osp.join(folder, directory))
    ]

"""What the readers of folders share: what they need on the disk, lists of files, splits, and few-shot draws."""

import os
import os.path as osp
import random
import warnings

from dassl.data.datasets import DatasetBase, Datum
from dassl.utils import UserError, listdir_nohidden, read_json, write_json

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
FEWSHOT_FOLDER = "split_fewshot"


class Reader(DatasetBase):
    """A data set whose few-shot draws are written down, and that knows the pieces it needs.

    Args:
        train, val, test: lists of Datum; labels of `train` are 0, 1, 2, ..., those of the others among them.

    Raises:
        FileNotFoundError: an image does not exist.
        UserError: a label has several class names, or no training image; or the configuration asks for more
            images of a class than there are.
    """

    pieces = {}  # {path in the folder of the data set: what it holds and where one gets it}

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
        """The folder of the data set."""
        return osp.abspath(osp.join(osp.expanduser(cfg.DATASET.ROOT), cls.dataset_dir))

    @classmethod
    def missing_pieces(cls, folder):
        """What the folder lacks, as {path: a line that says so and where to get it}."""
        lines = {}
        for piece, source in cls.pieces.items():
            path = osp.join(folder, piece)
            if not osp.exists(path):
                lines[path] = f"no {'file' if osp.splitext(piece)[1] else 'folder'} {path}: {source}"
        return lines

    @classmethod
    def find_pieces(cls, cfg, can_do_without=()):
        """Return the folder of the data set; raise FileNotFoundError for the first piece that it lacks.

        Args:
            can_do_without: paths of pieces that are not needed this time.
        """
        for path, line in cls.missing_pieces(cls.folder(cfg)).items():
            if path not in can_do_without:
                raise FileNotFoundError(line)
        return cls.folder(cfg)

    def few_shot(self, cfg, train, val=None):
        """Draw as DatasetBase does, and write down what was drawn: split_fewshot/shot_{K}-seed_{S}.json.

        The file is a record for the reader, never read back. A draw takes no time, but takes numbers from
        Python's `random`: a run that skipped it would go on with other numbers than the run before it. For the
        same reason upstream's pickles beside it stay unread. Draws without a seed (-1) are not written down.
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
            except UserError as error:  # data are often on a disk that cannot be written
                warnings.warn(f"the few-shot draw is not written down: {error}", stacklevel=2)
        return train, val


def check_labels(folder, train, val, test):
    """Raise UserError unless labels count from 0, have one name each, and all have training images."""
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


def check_name(folder, name):
    """Return a file's name; raise UserError if no line of a text file could hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: the name {name!a} is not valid UTF-8: rename it") from None
    if name.splitlines() != [name]:
        raise UserError(f"{folder}: the name {name!a} has a line break: rename it")
    return name


def class_folders(folder):
    """Sorted names of the folders in a folder, of which there must be one at least.

    Raises:
        UserError: there is none, or a link leads nowhere: a class would be left out silently.
        OSError: the folder cannot be listed.
    """
    names = []
    for name in listdir_nohidden(folder, sort=True):
        path = osp.join(folder, check_name(folder, name))
        if osp.islink(path) and not osp.exists(path):
            raise UserError(f"{path} is a link that leads nowhere: mend or delete it")
        if osp.isdir(path) and name != FEWSHOT_FOLDER:
            names.append(name)
    if not names:
        raise UserError(f"{folder} has no folders: it should hold one folder of images per class")
    return names


def image_names(folder):
    """Sorted names of the images in a folder, by their extension; UserError if there is none.

    Sorted, as the order that the file system happens to give would decide which images a few-shot draw takes.
    """
    names = [name for name in listdir_nohidden(folder, sort=True) if name.lower().endswith(IMAGE_EXTENSIONS)]
    if not names:
        raise UserError(f"{folder} has no images ({', '.join(IMAGE_EXTENSIONS)}): add some, or delete the folder")
    return [check_name(folder, name) for name in names]


def read_lines(path):
    """The lines of a text file that are not blank, stripped."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error.reason}): copy it anew") from error


def read_json_file(path):
    """The content of a JSON file; UserError if it is none."""
    try:
        return read_json(path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy it anew") from error


def parse_words(path, line, count):
    """A line's words; the last of `count` takes the rest of the line. UserError if there are fewer."""
    words = line.split(None, count - 1)
    if len(words) < count:
        raise UserError(f'{path}: a line should have {count} words, got "{line}"')
    return words


def split_by_class(items, shares):
    """Split a list of Datum by shares of each class, at random but always in the same way.

    It depends neither on the run's seed nor on what `random` did before: no run tests what another was trained on.

    Args:
        shares: of the parts but the last, which takes the rest, e.g. (0.5, 0.2) for 50/20/30.

    Returns:
        A list of Datum for each part.

    Raises:
        UserError: a part would get no image of a class.
    """
    generator = random.Random(0)
    parts = [[] for _ in (*shares, None)]
    for members in DatasetBase.split_dataset_by_label(items).values():
        sizes = [round(share * len(members)) for share in shares]
        sizes.append(len(members) - sum(sizes))
        if min(sizes) < 1:
            raise UserError(
                f'class "{members[0].classname}" has only {len(members)} images, too few to split: '
                "add some, or delete the class"
            )
        generator.shuffle(members)
        for part, size in zip(parts, sizes, strict=True):
            part += members[:size]
            members = members[size:]
    return parts


def link_free_walk(folder):
    """Paths of the images under a folder, sorted; links are followed, but no folder is entered twice."""

    def stop(error):
        raise error

    seen, paths = set(), []
    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = osp.realpath(parent)
        if real in seen:
            folders.clear()  # a link back: a loop
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = [name for name in names if not name.startswith(".")]
        paths += [osp.join(parent, check_name(parent, n)) for n in visible if n.lower().endswith(IMAGE_EXTENSIONS)]
    return sorted(paths)


def read_class_folders(folder, names, present=None):
    """Images of <folder>/<class folder>/ as Datum, labelled in the order of `names`, {class folder: class name}.

    Args:
        present: those of the class folders that there are; all if not given.
    """
    return [
        Datum(osp.join(folder, directory, file), label=label, classname=name)
        for label, (directory, name) in enumerate(names.items())
        if present is None or directory in present
        for file in image_names(osp.join(folder, directory))
    ]

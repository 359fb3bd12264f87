"""A user's own images: a folder for each class, or a CSV file. DATASET.ROOT is the folder itself."""

import os.path as osp
from collections import Counter
from itertools import count as count_from

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError, note
from datasets.files import (
    SPLIT_WORDS,
    LeftOut,
    count_files,
    equal_bytes,
    link_free_walk,
    shortened,
    subfolders,
    without_links,
)
from datasets.reading import SPLITS, Reader, read_lines, sizes_of_parts, split_by_class
from datasets.tables import find_table, read_table

SHARES = (0.5, 0.2)  # of training and validation, where the user has not split
NAMES = "classnames.txt"
CLASSES = 5  # whose numbers of images are said


class OwnReader(Reader):
    """Images in DATASET.ROOT, with an optional classnames.txt of lines "<folder or label> <class name>"."""

    exif = True

    @classmethod
    def folder(cls, cfg):
        """Return the absolute path of DATASET.ROOT.

        Raises:
            FileNotFoundError: The folder is missing.
            UserError: DATASET.ROOT is empty.
        """
        if not cfg.DATASET.ROOT:
            raise UserError(f"DATASET.NAME {cls.__name__} needs DATASET.ROOT, the folder of your images")
        folder = super().folder(cfg)
        if not osp.isdir(folder):
            raise FileNotFoundError(f"no folder {folder}: DATASET.ROOT should be the folder of your images")
        return folder

    def __init__(self, cfg):
        left_out = LeftOut()
        splits = self.read(self.folder(cfg), left_out)
        is_split = len(splits) > 1
        if not is_split:
            splits = split_by_class(*without_links({"the data": splits[0]}, left_out), SHARES)
        else:
            splits = without_links(dict(zip(SPLITS, splits, strict=True)), left_out)
        if left_out := str(left_out):
            self.say(left_out)
        super().__init__(cfg, *splits)
        self.say_split(cfg.DATASET.NUM_SHOTS, splits[0], is_split)
        self.say_what_tests_lack(splits)

    def read(self, folder, left_out):
        """Return the lists of Datum of the three splits, or a list of one list that is not split.

        Each reader writes it.

        Args:
            folder: DATASET.ROOT.
            left_out: A LeftOut, to which is added what is there and not read.
        """
        raise NotImplementedError

    def say_split(self, shots, train, is_split):
        """Say how many images of each class are used for what, and what the shots need if a class has too few.

        Args:
            shots: DATASET.NUM_SHOTS.
            train: The list of training Datum, before few-shot draws.
            is_split: Whether the user has split the images.
        """
        counts = [Counter(item.classname for item in items or ()) for items in (self.train_x, self.val, self.test)]
        lines = [
            f"class {name}: {', '.join(f'{count[name]} {split}' for count, split in zip(counts, SPLITS, strict=True))}"
            for name in counts[0]
        ]
        note("; ".join(lines[:CLASSES]) + (f"; and {len(lines) - CLASSES} classes more" if lines[CLASSES:] else ""))
        if min(Counter(item.label for item in train).values()) < shots:
            need = next(n for n in count_from(shots) if is_split or sizes_of_parts(n, SHARES)[0] >= shots)
            why = "in train/" if is_split else f"of which {SHARES[0]:.0%} are for training"
            note(f"{shots} shots need {need} images of each class, {why}")

    def say_what_tests_lack(self, splits):
        """Say which classes are not tested, and which tested images were trained on.

        Args:
            splits: The lists of Datum, before few-shot draws.
        """
        names, tested = {item.label: item.classname for item in splits[0]}, {item.label for item in splits[2]}
        untested = [name for label, name in names.items() if label not in tested]
        if untested:
            which = f"{len(untested)} of {len(names)} classes ({shortened(untested)})"
            self.say(f"trained on, but not tested, for want of images: {which}")
        if pairs := equal_bytes(splits):
            first, second = pairs[0]
            self.say(
                f"images that are equal, byte by byte, to one of an earlier split, so tests on them say too much: "
                f"{len(pairs)}, such as {second} to {first}"
            )


def name_classes(folder, keys):
    """Return {key: class name}; underscores become spaces.

    Args:
        folder: Folder that may hold a classnames.txt. Without it, the keys are the class names.
        keys: Names of the class folders, or labels.

    Raises:
        UserError: classnames.txt has no line for a key, or two keys have the same class name.
    """
    path = osp.join(folder, NAMES)
    names = {key: key for key in keys}
    if osp.lexists(path):
        found = {}
        for line in read_lines(path):
            # Names of folders may hold spaces: the longest one that the line begins with counts.
            known = [key for key in keys if line.startswith((f"{key} ", f"{key}\t"))]
            if known:
                key = max(known, key=len)
                found[key] = line[len(key) :]
        missing = [key for key in keys if key not in found]
        if missing:
            raise UserError(f'{path} has no line "{missing[0]} <class name>"')
        names = {key: found[key] for key in keys}
    names = {key: " ".join(name.replace("_", " ").split()) for key, name in names.items()}
    lower = {key: name.casefold() for key, name in names.items()}
    name, times = Counter(lower.values()).most_common(1)[0]
    if times > 1 or "" in names.values():
        twice = [key for key in keys if lower[key] in (name, "")]
        raise UserError(f'{folder}: give {" and ".join(twice)} a class name each, in classnames.txt; got "{name}"')
    return names


@DATASET_REGISTRY.register(fallback=True)  # a user's reader of this name wins
class ImageFolder(OwnReader):
    """DATASET.ROOT with {train,val,test}/<class>/ (val may be missing), or with <class>/ alone.

    Images may lie at any depth under <class>/. The splits may have other usual names, such as Training or validation.
    Without a folder train/ of folders, 50 % of each class are for training, 20 % for validation and 30 % for
    testing, the same for every seed. Labels follow the sorted folders.

    Raises:
        FileNotFoundError: DATASET.ROOT is missing, or test/ is missing beside train/.
        UserError: A class has no images or no training images, two classes have the same name, or folders can be
            understood in two ways.
    """

    def read(self, folder, left_out):
        folders = subfolders(folder, left_out)
        if not folders:
            raise UserError(f"{folder} has no folders: it should hold one folder of images per class")
        count_files(folder, left_out, (NAMES,))
        # "train" may be a class of pictures of trains; then it holds no folders.
        called = {name: SPLIT_WORDS[name.lower()] for name in folders if name.lower() in SPLIT_WORDS}
        splits = [name for name in called if subfolders(osp.join(folder, name))]
        if "train" in {called[name] for name in splits}:
            left_out.folders += [name for name in folders if name not in called]
            return self.read_splits(folder, called, left_out)
        if splits and len(splits) == len(folders):
            raise UserError(f"{folder} has {shortened(splits)}, but no train: it should hold train, test and maybe val")
        self.check_classes(folder, folders)
        return [read_classes(folder, name_classes(folder, folders), left_out)]

    @staticmethod
    def check_classes(folder, folders):
        """Check that the folders in `folder` are classes.

        Raises:
            UserError: Their subfolders are, or are splits.
        """
        for name in folders:
            below = subfolders(osp.join(folder, name))
            if len({SPLIT_WORDS.get(part.lower(), "") for part in below} - {""}) > 1:
                raise UserError(
                    f"{folder}/{name} holds the splits {shortened(below)}: splits within a class are not understood, "
                    f"so move them to {folder}/{below[0]}/{name} and so on"
                )
            if len(folders) == 1 and below:
                raise UserError(
                    f"{folder} holds the one folder {name}, which holds {shortened(below)}: if these are the classes "
                    f"or the splits, DATASET.ROOT should be {folder}/{name}"
                )

    @staticmethod
    def read_splits(folder, called, left_out):
        """Return the lists of Datum of the splits; labels follow the sorted folders of the training images.

        Args:
            folder: DATASET.ROOT.
            called: {folder: the split that its name says}.
            left_out: A LeftOut.
        """
        places = {}
        for name, split in called.items():
            if split in places:
                raise UserError(
                    f"{folder} has both {places[split]} and {name}: put their images into one folder, {split}"
                )
            places[split] = name
        paths = {split: osp.join(folder, name) for split, name in places.items()}
        if "test" not in paths:
            raise FileNotFoundError(
                f"no folder {folder}/test: beside {places['train']}/ it should hold one folder of images per class"
            )
        names = name_classes(folder, subfolders(paths["train"]))
        splits = []
        for split in SPLITS:
            if split not in paths:
                splits.append([])
                continue
            present = subfolders(paths[split], left_out)
            if not present:
                raise UserError(f"{paths[split]} has no folders: it should hold one folder of images per class")
            if not set(present) <= set(names):
                unknown = min(set(present) - set(names))
                raise UserError(f"{paths[split]}/{unknown}: there is no such class in {paths['train']}")
            count_files(paths[split], left_out)
            splits.append(read_classes(paths[split], names, left_out, present))
        return splits


def read_classes(folder, names, left_out, present=None):
    """Return the images of <folder>/<class folder>/ at any depth, as a list of Datum.

    Args:
        folder: Folder of the class folders.
        names: {class folder: class name} in the order of the labels.
        left_out: A LeftOut.
        present: The class folders that exist; None for all.

    Raises:
        UserError: A class folder has no images.
    """
    items = []
    for label, (directory, name) in enumerate(names.items()):
        if present is None or directory in present:
            path = osp.join(folder, directory)
            images = link_free_walk(path, left_out)
            if not images:
                raise UserError(f"{path} has no images (.jpg, .png, ...): add some, or delete the folder")
            items += [Datum(image, label=label, classname=name) for image in images]
    return items


@DATASET_REGISTRY.register(fallback=True)
class CSV(OwnReader):
    """DATASET.ROOT with one .csv file of columns path, label and split; other columns are ignored.

    A path is relative to DATASET.ROOT, or absolute. A label is a class name, or a key of classnames.txt. A split is
    train, val or test, or another usual name of these. Without the column, images are split as those in folders.
    Labels are numbered in sorted order, as numbers if all of them are numbers.

    Raises:
        FileNotFoundError: DATASET.ROOT, the file or an image is missing.
        UserError: There are several .csv files, a column is missing, or a line is wrong.
    """

    def read(self, folder, left_out):
        table = find_table(folder)
        rows, said = read_table(table)
        for line in said:
            self.say(line)
        keys = {row["label"] for row in rows}
        keys = sorted(keys, key=int) if all(key.isdecimal() for key in keys) else sorted(keys)
        names = name_classes(folder, keys)
        labels = {key: label for label, key in enumerate(keys)}
        splits = {split: [] for split in (SPLITS if rows[0]["split"] else ("",))}
        seen = {}
        for row in rows:
            path = osp.normpath(osp.join(folder, row["path"]))
            real = osp.realpath(path)
            if real in seen:
                raise UserError(f"{table}, line {row['line']}: {row['path']} is in line {seen[real]} already")
            seen[real] = row["line"]
            splits[row["split"]].append(Datum(path, label=labels[row["label"]], classname=names[row["label"]]))
        return list(splits.values())

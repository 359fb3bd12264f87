"""A user's own images: a folder for each class, or a CSV file. DATASET.ROOT is the folder itself."""

import csv
import glob
import os.path as osp
from collections import Counter

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import UserError, listdir_nohidden
from datasets.reading import SPLITS, Reader, check_name, class_folders, read_class_folders, read_lines, split_by_class

COLUMNS = ("path", "label", "split")


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


def name_classes(folder, keys):
    """Return {key: class name}; underscores become spaces.

    Args:
        folder: Folder that may hold a classnames.txt. Without it, the keys are the class names.
        keys: Names of the class folders, or labels.

    Raises:
        UserError: classnames.txt has no line for a key, or two keys have the same class name.
    """
    path = osp.join(folder, "classnames.txt")
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
    name, times = Counter(names.values()).most_common(1)[0]
    if times > 1 or "" in names.values():
        twice = [key for key in keys if names[key] in (name, "")]
        raise UserError(f'{folder}: give {" and ".join(twice)} a class name each, in classnames.txt; got "{name}"')
    return names


@DATASET_REGISTRY.register(fallback=True)  # a user's reader of this name wins
class ImageFolder(OwnReader):
    """DATASET.ROOT with {train,val,test}/<class>/ (val may be missing), or with <class>/ alone.

    Without a folder train/ of folders, 50 % of each class are for training, 20 % for validation and 30 % for
    testing, the same for every seed. Labels follow the sorted folders.

    Raises:
        FileNotFoundError: DATASET.ROOT is missing, or test/ is missing beside train/.
        UserError: A class has no images, too few to split or no training images, or two classes have the same name.
    """

    def __init__(self, cfg):
        folder = self.folder(cfg)
        # "train" may be a class of pictures of trains; then it holds no folders.
        if glob.glob(osp.join(glob.escape(folder), "train", "*", "")):
            splits = self.read_splits(folder)
        else:
            names = name_classes(folder, class_folders(folder))
            splits = split_by_class(read_class_folders(folder, names), (0.5, 0.2))
        super().__init__(cfg, *splits)

    @staticmethod
    def read_splits(folder):
        """Return the lists of Datum of train/, val/ and test/; labels follow the sorted folders of train/."""
        train = osp.join(folder, "train")
        names = name_classes(folder, class_folders(train))
        splits = [read_class_folders(train, names)]
        for split in ("val", "test"):
            path = osp.join(folder, split)
            if split == "val" and not osp.lexists(path):
                splits.append([])
                continue
            if not osp.isdir(path):
                raise FileNotFoundError(
                    f"no folder {path}: beside train/ it should hold one folder of images per class"
                )
            present = class_folders(path)
            if not set(present) <= set(names):
                raise UserError(f"{path}/{min(set(present) - set(names))}: there is no such class in {train}")
            splits.append(read_class_folders(path, names, present))
        return splits


@DATASET_REGISTRY.register(fallback=True)
class CSV(OwnReader):
    """DATASET.ROOT with one .csv file of columns path, label and split; other columns are ignored.

    A path is relative to DATASET.ROOT, or absolute. A label is a class name, or a key of classnames.txt. A split is
    train, val or test. Labels are numbered in sorted order, as numbers if all of them are numbers.

    Raises:
        FileNotFoundError: DATASET.ROOT, the file or an image is missing.
        UserError: There are several .csv files, a column is missing, or a line is wrong.
    """

    def __init__(self, cfg):
        folder = self.folder(cfg)
        files = [name for name in listdir_nohidden(folder, sort=True) if name.lower().endswith(".csv")]
        if not files:
            raise FileNotFoundError(f"no .csv file in {folder}: it should hold one with columns {', '.join(COLUMNS)}")
        if len(files) > 1:
            raise UserError(f"{folder} should hold one .csv file, got {', '.join(files)}: move the others away")
        rows = read_rows(osp.join(folder, files[0]))
        keys = {row["label"] for row in rows}
        keys = sorted(keys, key=int) if all(key.isdecimal() for key in keys) else sorted(keys)
        names = name_classes(folder, keys)
        labels = {key: label for label, key in enumerate(keys)}
        splits = {split: [] for split in SPLITS}
        for row in rows:
            path = osp.normpath(osp.join(folder, row["path"]))
            key = row["label"]
            splits[row["split"]].append(Datum(path, label=labels[key], classname=names[key]))
        super().__init__(cfg, *splits.values())


def read_rows(path):
    """Return the lines of a CSV file as dicts {"path", "label", "split"}.

    Raises:
        UserError: The file is not readable, a column is missing, a line is wrong or lists an image again.
    """
    seen = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                got = ", ".join(reader.fieldnames or ()) or "nothing"
                raise UserError(
                    f"{path} has no column {missing[0]}: the first line should be path,label,split, got {got}"
                )
            for row in reader:
                values = {column: (row[column] or "").strip() for column in COLUMNS}
                if not all(values.values()) or values["split"] not in SPLITS:
                    raise UserError(
                        f"{path}, line {reader.line_num}: need a path, a label and a split of train, val, test"
                    )
                check_name(path, values["path"])
                first = seen.setdefault(osp.normpath(values["path"]), (reader.line_num, values))
                if first[1] is not values:
                    raise UserError(f"{path}, line {reader.line_num}: {values['path']} is in line {first[0]} already")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error.reason}): save it as such") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error}): save it anew") from error
    if not seen:
        raise UserError(f"{path} has no images")
    return [values for _, values in seen.values()]

"""Images by path, and the base class of the readers of data sets."""

import hashlib
import os
import os.path as osp
import random
from collections import defaultdict
from operator import attrgetter

from dassl.utils import UserError, note


def read_only(name):
    """Return a property that gives the attribute _<name> and refuses another value."""
    return property(attrgetter(f"_{name}"))


class Datum:
    """One image: its path, label, domain and class name.

    Few-shot caches of other repositories are pickles that name this class by its module and have the four private
    attributes, so neither may change. The file need not exist here: DatasetBase checks that folder by folder, because
    a check per file takes minutes for a million files.

    Raises:
        TypeError: `impath` is no string.
    """

    impath, label, domain, classname = map(read_only, ("impath", "label", "domain", "classname"))

    def __init__(self, impath="", label=0, domain=0, classname=""):
        if not isinstance(impath, str):
            raise TypeError(f"the path of an image must be a string, got {type(impath).__name__}")
        vars(self).update(_impath=impath, _label=label, _domain=domain, _classname=classname)


def check_images(items):
    """Check that images exist; each folder is listed once.

    Raises:
        FileNotFoundError: An image is missing.
    """
    listed = {}
    for item in items:
        folder, name = osp.split(item.impath)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder or ".")) if osp.isdir(folder or ".") else set()
        if name not in listed[folder]:
            raise FileNotFoundError(f"no image at {item.impath}")


def hash_images(items, root):
    """Return 16 hexadecimal digits that identify a list of Datum: their paths below a folder, and their labels.

    Neither the folder nor the order counts, so the same images have the same digits on all machines.
    """
    root = osp.abspath(osp.expanduser(root))
    lines = sorted(f"{osp.relpath(osp.abspath(item.impath), root)}\t{item.label}" for item in items)
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:16]


class DatasetBase:
    """A data set: lists of Datum for training, validation and test.

    Args:
        train_x: Labelled training images, which also give the number and the names of the classes.
        train_u: Unlabelled training images, or None.
        val: Validation images, or None.
        test: Test images.

    Raises:
        FileNotFoundError: An image is missing.
    """

    dataset_dir = ""  # folder under cfg.DATASET.ROOT
    domains = []  # names of the domains, if the data set has some
    exif = False  # whether INPUT.EXIF auto is on: published figures of the field rest on pixels as they are stored
    train_x, train_u, val, test = map(read_only, ("train_x", "train_u", "val", "test"))
    num_classes, lab2cname, classnames = map(read_only, ("num_classes", "lab2cname", "classnames"))

    notes = ()  # what `say` said

    def say(self, line):
        """Say in one line what is left out or changed; a run writes it into results.json as well."""
        vars(self).setdefault("notes", []).append(line)
        note(line)

    def __init__(self, train_x=None, train_u=None, val=None, test=None):
        splits = {"_train_x": train_x, "_train_u": train_u, "_val": val, "_test": test}
        check_images(item for items in splits.values() for item in items or ())
        names, in_order = self.get_lab2cname(train_x)
        classes = {"_num_classes": self.get_num_classes(train_x), "_lab2cname": names, "_classnames": in_order}
        vars(self).update(splits | classes)

    def leave_out_validation(self):
        """Forget the validation images. They have been drawn, so the training images are those of the same seed."""
        vars(self)["_val"] = None

    @staticmethod
    def get_num_classes(data_source):
        """Return the largest label + 1."""
        return max((item.label for item in data_source), default=-1) + 1

    @staticmethod
    def get_lab2cname(data_source):
        """Return {label: class name} and the list of class names, both in the order of labels."""
        lab2cname = dict(sorted({item.label: item.classname for item in data_source}.items()))
        return lab2cname, list(lab2cname.values())

    @staticmethod
    def split_dataset_by_label(data_source):
        """Return {label: list of Datum} in the order in which the labels first appear."""
        by_label = defaultdict(list)
        for item in data_source:
            by_label[item.label].append(item)
        return by_label

    def generate_fewshot_dataset(self, *data_sources, num_shots=-1, repeat=False):
        """Draw `num_shots` items of each class without replacement.

        Each class takes one `random.sample` from Python's global generator, in the order in which the classes first
        appear. So the same seed draws the same images as in all repositories with this API.

        Args:
            data_sources: Lists of Datum.
            num_shots: Items per class; below 1: all items.
            repeat: Draw with replacement if a class has fewer items. Otherwise all its items are taken.

        Returns:
            A list, or a list of lists for several sources.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        output = []
        for data_source in data_sources:
            drawn = []
            for items in self.split_dataset_by_label(data_source).values():
                if len(items) >= num_shots:
                    drawn += random.sample(items, num_shots)
                elif repeat:
                    drawn += random.choices(items, k=num_shots)
                else:
                    drawn += items
            output.append(drawn)
        return output[0] if len(output) == 1 else output

    def few_shot(self, cfg, train, val=None):
        """Draw cfg.DATASET.NUM_SHOTS training images of each class, then as many validation images, but at most 4.

        All images are taken of a class that has fewer.

        Returns:
            (train, val); unchanged if NUM_SHOTS is below 1.

        Raises:
            UserError: A class has fewer training images, and DATASET.FEW_IMAGES is "stop".
        """
        shots = cfg.DATASET.NUM_SHOTS
        if shots < 1:
            return train, val
        classes = self.split_dataset_by_label(train).values()
        few = [(len(items), items[0].classname) for items in classes if len(items) < shots]
        few.sort(key=lambda entry: entry[0])
        if few and cfg.DATASET.get("FEW_IMAGES") == "stop":
            raise UserError(
                f'DATASET.NUM_SHOTS is {shots}, but class "{few[0][1]}" has only {few[0][0]} training images: use at '
                f"most {few[0][0]}, or -1 for all images, or DATASET.FEW_IMAGES take"
            )
        if few:
            shown = ", ".join(f"{name} {number}" for number, name in few[:5]) + (", ..." if few[5:] else "")
            which = f"{len(few)} of {len(classes)} classes ({shown})"
            self.say(f"fewer than {shots} training images, all of which are taken: {which}")
        train = self.generate_fewshot_dataset(train, num_shots=shots)
        if val is not None:
            val = self.generate_fewshot_dataset(val, num_shots=min(shots, 4))
        return train, val

    @staticmethod
    def subsample_classes(*data_sources, subsample="all"):
        """Keep one half of the classes, and label them from 0.

        Args:
            data_sources: Lists of Datum; the first one has all classes.
            subsample: "all", "base" (the first half of the labels, rounded up) or "new" (the rest).

        Returns:
            A list of Datum for each source.

        Raises:
            UserError: `subsample` has another value.
        """
        if subsample not in ("all", "base", "new"):
            raise UserError(f'DATASET.SUBSAMPLE_CLASSES must be all, base or new, got "{subsample}"')
        if subsample == "all":
            return data_sources
        labels = sorted({item.label for item in data_sources[0]})
        half = (len(labels) + 1) // 2
        kept = labels[:half] if subsample == "base" else labels[half:]
        relabel = {label: new for new, label in enumerate(kept)}
        return [
            [
                Datum(item.impath, relabel[item.label], item.domain, item.classname)
                for item in data_source
                if item.label in relabel
            ]
            for data_source in data_sources
        ]

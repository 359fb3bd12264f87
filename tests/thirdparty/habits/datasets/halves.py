"""A reader that keeps some of the classes: all, base or new."""

import math
import os

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import listdir_nohidden


@DATASET_REGISTRY.register()
class OxfordPets(DatasetBase):
    """Squares under a name that one of the toolbox's neighbours has too."""

    dataset_dir = "squares"

    def __init__(self, cfg):
        self.dataset_dir = os.path.join(os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT)), self.dataset_dir)
        train, val, test = (self.read_split(part) for part in ("train", "val", "test"))
        train = self.generate_fewshot_dataset(train, num_shots=cfg.DATASET.NUM_SHOTS)
        val = self.generate_fewshot_dataset(val, num_shots=min(cfg.DATASET.NUM_SHOTS, 4))
        train, val, test = self.subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)

    def read_split(self, part):
        folder = os.path.join(self.dataset_dir, part)
        return [
            Datum(impath=os.path.join(folder, name, file), label=label, classname=name)
            for label, name in enumerate(listdir_nohidden(folder, sort=True))
            for file in listdir_nohidden(os.path.join(folder, name), sort=True)
        ]

    @staticmethod
    def subsample_classes(*args, subsample="all"):
        assert subsample in ["all", "base", "new"]
        if subsample == "all":
            return args
        labels = sorted({item.label for item in args[0]})
        m = math.ceil(len(labels) / 2)
        selected = labels[:m] if subsample == "base" else labels[m:]
        relabeler = {y: y_new for y_new, y in enumerate(selected)}
        return [
            [
                Datum(impath=item.impath, label=relabeler[item.label], classname=item.classname)
                for item in dataset
                if item.label in selected
            ]
            for dataset in args
        ]

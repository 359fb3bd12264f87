"""A reader of the coloured squares, by upstream's interface."""

import os

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import listdir_nohidden


@DATASET_REGISTRY.register()
class Squares(DatasetBase):
    dataset_dir = "squares"

    def __init__(self, cfg):
        splits = [self.read(os.path.join(cfg.DATASET.ROOT, self.dataset_dir, s)) for s in ("train", "val", "test")]
        train = self.generate_fewshot_dataset(splits[0], num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, val=splits[1], test=splits[2])

    def read(self, folder):
        items = []
        for label, name in enumerate(sorted(listdir_nohidden(folder))):
            for file in listdir_nohidden(os.path.join(folder, name), sort=True):
                items.append(Datum(impath=os.path.join(folder, name, file), label=label, classname=name))
        return items

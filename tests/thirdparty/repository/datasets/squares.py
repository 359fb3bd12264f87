"""A reader by the habits of the CoOp family: a split file in JSON, and few-shot draws kept as pickles."""

import os
import pickle

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import listdir_nohidden, mkdir_if_missing, read_json, write_json


@DATASET_REGISTRY.register()
class FashionMNIST(DatasetBase):
    """Squares under a name that one of our readers has too."""

    dataset_dir = "squares"

    def __init__(self, cfg):
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.split_path = os.path.join(self.dataset_dir, "split_Squares.json")
        self.split_fewshot_dir = os.path.join(self.dataset_dir, "split_fewshot")
        mkdir_if_missing(self.split_fewshot_dir)
        if not os.path.exists(self.split_path):
            self.make_split()
        split = read_json(self.split_path)
        train, val, test = (self.convert(split[part]) for part in ("train", "val", "test"))

        num_shots = cfg.DATASET.NUM_SHOTS
        if num_shots >= 1:
            preprocessed = os.path.join(self.split_fewshot_dir, f"shot_{num_shots}-seed_{cfg.SEED}.pkl")
            if os.path.exists(preprocessed):
                print(f"Loading preprocessed few-shot data from {preprocessed}")
                with open(preprocessed, "rb") as file:
                    data = pickle.load(file)
                    train, val = data["train"], data["val"]
            else:
                train = self.generate_fewshot_dataset(train, num_shots=num_shots)
                val = self.generate_fewshot_dataset(val, num_shots=min(num_shots, 4))
                data = {"train": train, "val": val}
                print(f"Saving preprocessed few-shot data to {preprocessed}")
                with open(preprocessed, "wb") as file:
                    pickle.dump(data, file, protocol=pickle.HIGHEST_PROTOCOL)
        super().__init__(train_x=train, val=val, test=test)

    def make_split(self):
        split = {}
        for part in ("train", "val", "test"):
            folder = os.path.join(self.dataset_dir, part)
            names = listdir_nohidden(folder, sort=True)
            split[part] = [
                (os.path.join(part, name, file), label, name)
                for label, name in enumerate(names)
                for file in listdir_nohidden(os.path.join(folder, name))
            ]
        write_json(split, self.split_path)

    def convert(self, items):
        return [
            Datum(impath=os.path.join(self.dataset_dir, path), label=int(label), classname=name)
            for path, label, name in items
        ]

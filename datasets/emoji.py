"""Emoji: 24 categories of emoji in four styles. The small CLIP was not pretrained on any of their concepts.

The styles are Noto (Google), Twemoji (Twitter), Fluent 3D (Microsoft) and OpenMoji; pretraining used all but OpenMoji.
Licences: datasets/emoji/README.md.
"""

import json
import os.path as osp

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import UserError
from datasets.archives import unpack


def read_index(folder):
    """Return the content of a folder's index.json: classes, images, pictures of other kinds."""
    with open(osp.join(folder, "index.json"), encoding="utf-8") as file:
        return json.load(file)


@DATASET_REGISTRY.register(fallback=True)  # a user's reader of this name wins
class Emoji(DatasetBase):
    """<ROOT>/emoji with <style>/<code points>.png and index.json, unpacked from the repository on first use.

    DATASET.SPLIT_BY chooses the test images. With "drawing" they are other drawings of the training concepts: two of
    a concept's four drawings are for training. With "concept" they are other concepts. The styles are the domains:
    DATASET.SOURCE_DOMAINS chooses those of training and validation, DATASET.TARGET_DOMAINS those of the test; empty
    means all. If the two have no style in common, "drawing" uses all drawings of each.

    Attributes:
        ood: List of Datum with images of other kinds (flags, letters, clocks, textures, ...). Their label is -1,
            their class name the kind.

    Raises:
        UserError: SPLIT_BY or a style has no allowed value, or the folder has unexpected content.
    """

    dataset_dir = "emoji"
    domains = ["noto", "twemoji", "fluent", "openmoji"]

    @staticmethod
    def extend_cfg(cfg):
        cfg.DATASET.SPLIT_BY = "drawing"  # or concept

    def __init__(self, cfg):
        folder = self.make(osp.abspath(osp.expanduser(cfg.DATASET.ROOT)))
        index = read_index(folder)
        sources = self.choose_styles("SOURCE_DOMAINS", cfg.DATASET.SOURCE_DOMAINS)
        targets = self.choose_styles("TARGET_DOMAINS", cfg.DATASET.TARGET_DOMAINS)
        by = cfg.DATASET.SPLIT_BY
        if by not in ("drawing", "concept"):
            raise UserError(f'DATASET.SPLIT_BY must be drawing or concept, got "{by}"')

        # Images in different styles are different drawings already.
        apart = by == "drawing" and not set(sources) & set(targets)
        train, val, test = [], [], []
        for image in index["images"]:
            item = self.read(folder, image, index["classes"].index(image["label"]), image["label"])
            split = image[f"split_{by}"]
            if image["style"] in sources and (split == "train" or apart and split == "test"):
                train.append(item)
            if image["style"] in sources and split == "val":
                val.append(item)
            if image["style"] in targets and (split == "test" or apart):
                test.append(item)
        self.ood = [self.read(folder, image, -1, image["kind"]) for image in index["ood"]]
        train, val = self.few_shot(cfg, train, val)
        train, val, test = self.subsample_classes(train, val, test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)

    @staticmethod
    def make(root):
        """Return the folder of the images under the root; make it on first use."""
        folder = osp.join(root, Emoji.dataset_dir)
        unpack(osp.join(osp.dirname(__file__), "emoji", "emoji.zip"), folder)
        return folder

    def choose_styles(self, key, styles):
        """Return the styles of a config key, all if it is empty; raise UserError for an unknown one."""
        unknown = set(styles) - set(self.domains)
        if unknown:
            raise UserError(f"DATASET.{key} has {', '.join(sorted(unknown))}; styles are {', '.join(self.domains)}")
        return styles or self.domains

    def read(self, folder, image, label, classname):
        """Return an entry of index.json as a Datum; its domain is the number of its style."""
        style = image["style"]
        domain = self.domains.index(style) if style in self.domains else len(self.domains)  # a generated texture
        return Datum(osp.join(folder, image["file"]), label=label, domain=domain, classname=classname)

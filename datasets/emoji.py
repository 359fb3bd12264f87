"""Emoji: 24 categories of emoji drawn in four styles, none of whose concepts the small CLIP was pretrained on.

Noto (Google), Twemoji (Twitter), Fluent 3D (Microsoft) and OpenMoji; see datasets/emoji/README.md for their licences.
OpenMoji is the one style that pretraining never saw.
"""

import json
import os.path as osp

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import UserError
from datasets.archives import unpack


@DATASET_REGISTRY.register(fallback=True)  # a reader of that name of yours comes first
class Emoji(DatasetBase):
    """<ROOT>/emoji with <style>/<code points>.png and index.json, unpacked from the repository on first use.

    DATASET.SPLIT_BY says what the test images show: "drawing", other drawings of the same concepts (of a
    concept's four, two are for training), or "concept", concepts that are not in training. The styles are the
    domains: DATASET.SOURCE_DOMAINS chooses those of training and validation, DATASET.TARGET_DOMAINS those of the
    test; empty means all. Where the two have no style in common, "drawing" takes every drawing of either.

    ``ood`` lists images of other kinds (flags, letters, clocks, textures, ...), labelled -1, the kind as class name.

    Raises:
        UserError: SPLIT_BY or a style is none of those allowed, or the folder holds something else.
    """

    dataset_dir = "emoji"
    domains = ["noto", "twemoji", "fluent", "openmoji"]

    @staticmethod
    def extend_cfg(cfg):
        cfg.DATASET.SPLIT_BY = "drawing"  # or concept

    def __init__(self, cfg):
        folder = osp.join(osp.abspath(osp.expanduser(cfg.DATASET.ROOT)), self.dataset_dir)
        unpack(osp.join(osp.dirname(__file__), "emoji", "emoji.zip"), folder)
        with open(osp.join(folder, "index.json"), encoding="utf-8") as file:
            index = json.load(file)
        sources = self.choose_styles("SOURCE_DOMAINS", cfg.DATASET.SOURCE_DOMAINS)
        targets = self.choose_styles("TARGET_DOMAINS", cfg.DATASET.TARGET_DOMAINS)
        by = cfg.DATASET.SPLIT_BY
        if by not in ("drawing", "concept"):
            raise UserError(f'DATASET.SPLIT_BY must be drawing or concept, got "{by}"')

        # Styles that are apart already are other drawings: no need to part the drawings of a concept once more.
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

    def choose_styles(self, key, styles):
        unknown = set(styles) - set(self.domains)
        if unknown:
            raise UserError(f"DATASET.{key} has {', '.join(sorted(unknown))}; styles are {', '.join(self.domains)}")
        return styles or self.domains

    def read(self, folder, image, label, classname):
        style = image["style"]
        domain = self.domains.index(style) if style in self.domains else len(self.domains)  # generated textures
        return Datum(osp.join(folder, image["file"]), label=label, domain=domain, classname=classname)

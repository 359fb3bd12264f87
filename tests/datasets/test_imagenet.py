"""The reader of ImageNet."""

import pytest
from conftest import COLOURS
from PIL import Image

from dassl.config import get_cfg_default, merge_file, merge_pairs
from dassl.data.datasets import build_dataset
from dassl.utils import set_random_seed
from datasets.imagenet import ImageNet

WNIDS = ["n01440764", "n01443537", "n02012849", "n03126707"]
NAMES = ["tench", "goldfish", "crane", "crane"]


@pytest.fixture
def root(tmp_path):
    """An ImageNet of four classes with five training and two validation images each."""
    folder = tmp_path / "imagenet"
    for split, count in (("train", 5), ("val", 2)):
        for wnid, colour in zip(reversed(WNIDS), COLOURS.values(), strict=True):
            (folder / "images" / split / wnid).mkdir(parents=True)
            for i in reversed(range(count)):
                Image.new("RGB", (4, 4), colour).save(folder / "images" / split / wnid / f"{wnid}_{i}.JPEG")
    (folder / "images" / "train" / ".DS_Store").touch()
    lines = [f"{wnid} {name}" for wnid, name in zip(WNIDS, NAMES, strict=True)]
    (folder / "classnames.txt").write_text("\n".join([*lines, "n15075141 toilet paper", ""]))
    return tmp_path


def read(root, **values):
    cfg = get_cfg_default()
    merge_file(cfg, "configs/datasets/imagenet.yaml")
    merge_pairs(cfg, {"DATASET.ROOT": str(root), **{f"DATASET.{k}": v for k, v in values.items()}})
    set_random_seed(1)
    return build_dataset(cfg)


def names(source):
    return [item.impath.rpartition("/")[2] for item in source]


def test_full_set(root):
    dataset = read(root)
    assert isinstance(dataset, ImageNet)
    assert dataset.classnames == NAMES and dataset.num_classes == 4
    # sorted, whatever order the files were made in
    assert names(dataset.train_x) == [f"{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(5)]
    assert [item.label for item in dataset.test] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert dataset.val == dataset.test


def test_few_shots_are_drawn_from_train_only(root):
    dataset = read(root, NUM_SHOTS=2)
    assert names(dataset.train_x) == names(read(root, NUM_SHOTS=2).train_x)
    assert [item.label for item in dataset.train_x] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(dataset.val) == len(dataset.test) == 8


def test_new_classes(root):
    dataset = read(root, SUBSAMPLE_CLASSES="new", NUM_SHOTS=2)
    assert dataset.classnames == ["crane", "crane"]
    assert names(dataset.test) == [f"{wnid}_{i}.JPEG" for wnid in WNIDS[2:] for i in range(2)]


def test_missing_files_are_named(root):
    images = root / "imagenet" / "images"
    with pytest.raises(ValueError, match='class "tench" has only 5'):
        read(root, NUM_SHOTS=6, FEW_IMAGES="stop")
    (images / "val" / WNIDS[3]).rename(images / "val" / "n15075141")
    with pytest.raises(ValueError, match="train and val must have the same <wnid> folders"):
        read(root)
    (images / "val" / "n15075141").rename(images / "val" / "n99999999")
    with pytest.raises(ValueError, match="val/n99999999: classnames.txt has no line"):
        read(root)
    (images / "val").rename(images / "validation")
    with pytest.raises(FileNotFoundError, match="no folder .*images/val: it should hold"):
        read(root)
    (root / "imagenet" / "classnames.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no file .*imagenet/classnames.txt: it should hold"):
        read(root)

"""The embedded data sets and the small CLIP: complete, apart from pretraining, and readable."""

import csv
import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

import datasets
from dassl.config import get_cfg_default
from dassl.utils import UserError, set_random_seed
from datasets.emoji import Emoji
from datasets.fashion_mnist import CLASSNAMES, FILES, FashionMNIST
from scripts.embedded.evaluation import accuracy, choose, choose_ood, image_features
from sotglp import load_clip
from sotglp.prompts import encode_names

ROOT = Path(datasets.__path__[0]).parent
PEOPLE = {"1F468", "1F469", "1F9D1"}  # the first code point of every worker, whatever the drawing


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "not yet there"


def make_cfg(root, **values):
    cfg = get_cfg_default()
    Emoji.extend_cfg(cfg)
    cfg.DATASET.ROOT = str(root)
    for key, value in values.items():
        cfg.DATASET[key] = value
    return cfg


def count(items):
    return Counter(Counter(item.label for item in items).values())


def paths(items):
    return {item.impath for item in items}


def test_fashion_mnist_is_complete_and_its_splits_are_apart(root):
    data = FashionMNIST(make_cfg(root))
    assert data.classnames == list(CLASSNAMES)
    assert (count(data.train_x), count(data.val), count(data.test)) == ({64: 10}, {16: 10}, {200: 10})
    # train and val come from the same official part, where an index is an image
    train, val = ({Path(item.impath).stem for item in items} for items in (data.train_x, data.val))
    assert not train & val
    pixels = np.stack([np.asarray(Image.open(item.impath)) for item in data.test[:100]])
    assert pixels.shape == (100, 28, 28) and np.median(pixels) > 200  # dark on white


@pytest.mark.parametrize("by", ["drawing", "concept"])
def test_emoji_splits(root, by):
    data = Emoji(make_cfg(root, SPLIT_BY=by))
    splits = [data.train_x, data.val, data.test]
    assert data.num_classes == 24 and sum(map(len, splits)) == 4 * 293 == len(set().union(*map(paths, splits)))
    train, _, test = ({Path(item.impath).stem for item in items} for items in splits)
    assert (not train & test) if by == "concept" else train >= test
    assert min(Counter(item.label for item in data.train_x).values()) >= 16
    kinds = Counter(item.classname for item in data.ood)
    assert len(kinds) == 8 and kinds["texture"] == 96 and not paths(data.ood) & set().union(*map(paths, splits))


def test_held_out_emoji_have_no_near_duplicate_in_pretraining():
    with zipfile.ZipFile(ROOT / "datasets/emoji/emoji.zip") as archive:
        index = json.loads(archive.read("index.json"))
        names = Counter(archive.namelist())
    held_out = {image["concept"]: image for image in index["images"]}
    assert set(names.values()) == {1} and set(names) >= {image["file"] for image in index["images"] + index["ood"]}
    shipped = set(held_out) | {image["concept"] for image in index["ood"] if "concept" in image}
    groups = {held_out[code]["group"] for code in held_out}
    first = {code.split("-")[0] for code in held_out} - PEOPLE
    with open(ROOT / "scripts/embedded/concepts.csv", newline="") as file:
        pretraining = [row for row in csv.DictReader(file) if row["codepoints"] not in shipped]
    assert len(pretraining) > 1400
    assert not groups & {row["group"] for row in pretraining}
    assert not first & {row["codepoints"].split("-")[0] for row in pretraining}
    # nor does a group lie on both sides of the split by concept
    split_of = {(image["group"], image["split_concept"]) for image in index["images"]}
    assert len(split_of) == len(groups)


def test_styles_are_domains(root):
    data = Emoji(make_cfg(root, SOURCE_DOMAINS=("noto", "fluent"), TARGET_DOMAINS=("openmoji",)))
    assert {item.domain for item in data.train_x + data.val} == {0, 2} and {item.domain for item in data.test} == {3}
    assert len(data.test) == 293 and len(data.train_x + data.val) == 2 * 293
    same = Emoji(make_cfg(root, SOURCE_DOMAINS=("noto",), TARGET_DOMAINS=("noto",)))
    assert not paths(same.train_x) & paths(same.test)


@pytest.mark.parametrize(
    "values", [{"SPLIT_BY": "style"}, {"TARGET_DOMAINS": ("apple",)}, {"NUM_SHOTS": 17, "FEW_IMAGES": "stop"}]
)
def test_mistakes_with_emoji_are_refused(root, values):
    with pytest.raises(UserError, match="drawing or concept|openmoji|use at most"):
        Emoji(make_cfg(root, SUBSAMPLE_CLASSES="all", **{"SPLIT_BY": "concept", **values}))


@pytest.mark.parametrize("reader", [FashionMNIST, Emoji])
def test_few_shot_draws_depend_on_the_seed_only(root, reader):
    draws = []
    for seed in (1, 1, 2):
        set_random_seed(seed)
        draws.append(reader(make_cfg(root, NUM_SHOTS=4)))
    assert count(draws[0].train_x) == {4: draws[0].num_classes}
    assert paths(draws[0].train_x) == paths(draws[1].train_x) != paths(draws[2].train_x)
    base, new = (reader(make_cfg(root, SUBSAMPLE_CLASSES=half)) for half in ("base", "new"))
    assert not paths(base.test) & paths(new.test) and base.classnames + new.classnames == draws[0].classnames


def test_a_damaged_folder_is_refused(tmp_path):
    data = FashionMNIST(make_cfg(tmp_path))
    Path(data.test[0].impath).write_bytes(b"")
    with pytest.raises(UserError, match="incomplete"):
        FashionMNIST(make_cfg(tmp_path))


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
        file.write(header + array.tobytes())


@pytest.fixture
def idx_folder(tmp_path):
    """Ten classes with 12 training and 2 test images each, as IDX files, packed in part."""
    folder, generator = tmp_path / "fashion_mnist", np.random.default_rng(0)
    folder.mkdir()
    for part, (suffix, size) in {"train": ("", 12), "test": (".gz", 2)}.items():
        labels = np.repeat(np.arange(10, dtype=np.uint8), size)
        images = generator.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        images[:, 0, 0] = labels
        for name, array in zip(FILES[part], (images, labels), strict=True):
            write_idx(folder / (name + suffix), array)
    return folder


def test_official_files_are_read(idx_folder):
    for _ in range(2):  # made into PNG, then read again
        data = FashionMNIST(make_cfg(idx_folder.parent))
        assert (count(data.train_x), count(data.val), count(data.test)) == ({10: 10}, {2: 10}, {2: 10})
        assert not {Path(i.impath).stem for i in data.train_x} & {Path(i.impath).stem for i in data.val}
        for item in data.train_x + data.test:
            assert Image.open(item.impath).getpixel((0, 0)) == 255 - item.label


def test_missing_or_damaged_official_files_are_refused(idx_folder):
    images = idx_folder / FILES["train"][0]
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(UserError, match="train-images"):
        FashionMNIST(make_cfg(idx_folder.parent))
    images.unlink()
    with pytest.raises(FileNotFoundError, match="train-images"):
        FashionMNIST(make_cfg(idx_folder.parent))
    assert not (idx_folder / "full").exists()


@torch.no_grad()
def test_the_small_clip_knows_more_than_chance(root):
    """Chance is 4.2 % and 10 %; the model card's figures are far above both, on all pictures."""
    clip, cfg = load_clip("small"), make_cfg(root, SPLIT_BY="concept")
    cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS = (64, 64), ["normalize"]
    for reader, bound in ((Emoji, 28), (FashionMNIST, 18)):
        data = reader(cfg)
        items = data.test[:: len(data.test) // 150]
        features, _ = image_features(clip, items, cfg)
        labels = torch.tensor([item.label for item in items])
        assert accuracy(features, encode_names(clip, data.classnames), labels) > bound


def test_choices_never_see_the_test_pictures(root):
    data = Emoji(make_cfg(root, SPLIT_BY="concept"))
    for pick, items in ((choose, data), (choose_ood, data.ood)):
        seen, test = (pick(items, part) for part in ("validation", "test"))
        assert not {Path(item.impath).stem for item in seen} & {Path(item.impath).stem for item in test}
        kinds = {item.classname for item in seen + test}
        assert {item.classname for item in test} == kinds  # the only held-out keycap is the test's
    assert len(choose_ood(data.ood, "test")) + len(choose_ood(data.ood, "validation")) == len(data.ood)


def test_pictures_are_small_colour_images(root):
    data = Emoji(make_cfg(root))
    for item in data.test[::50] + data.ood[::50]:
        assert pil_to_tensor(Image.open(item.impath).convert("RGB")).shape == (3, 64, 64)

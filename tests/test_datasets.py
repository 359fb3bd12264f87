"""Readers of the field's data sets and of a user's own, on miniatures with the real layout and kinds of file."""

import csv
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dassl.config import get_cfg_default, merge_pairs
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils import UserError, read_image, set_random_seed
from datasets.imagenet import VARIANTS
from datasets.ood import OOD_SETS, read_ood
from datasets.splits import TABLE

ROOT = Path(__file__).parents[1]
WNIDS = {"n01440764": "tench", "n01443537": "goldfish", "n02012849": "crane", "n03126707": "crane"}
# Folders or names of images of three classes, as the makers of the data sets write them, and CoOp's class names.
CLASSES = {
    "Caltech101": {"Faces": "face", "airplanes": "airplane", "yin_yang": "yin_yang"},
    "OxfordPets": {
        "Abyssinian": "abyssinian",
        "great_pyrenees": "great_pyrenees",
        "yorkshire_terrier": "yorkshire_terrier",
    },
    "StanfordCars": {
        "AM General Hummer SUV 2000": "2000 AM General Hummer SUV",
        "Audi R8 Coupe 2012": "2012 Audi R8 Coupe",
    },
    "OxfordFlowers": {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "canterbury bells"},
    "Food101": {"apple_pie": "apple_pie", "ramen": "ramen", "waffles": "waffles"},
    "SUN397": {"a/abbey": "abbey", "b/bakery/shop": "shop bakery", "w/wet_bar": "wet_bar"},
    "DescribableTextures": {"banded": "banded", "dotted": "dotted", "woven": "woven"},
    "EuroSAT": {"AnnualCrop": "Annual Crop Land", "Forest": "Forest", "SeaLake": "Sea or Lake"},
    "UCF101": {"ApplyEyeMakeup": "Apply_Eye_Makeup", "Archery": "Archery", "YoYo": "Yo_Yo"},
}
OFFICIAL_TEST = ("OxfordPets", "StanfordCars", "SUN397", "UCF101")
PER_CLASS = 10


def save(path, colour=(90, 120, 150)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)


def image_path(name, key, number):
    """Path of an image of a class under the folder of the data set, as the makers have it."""
    label = list(CLASSES[name]).index(key)
    row = TABLE[name]
    if name == "OxfordPets":
        return f"images/{key}_{number}.jpg"
    if name == "StanfordCars":
        return f"cars_{'train' if number < 6 else 'test'}/{label * PER_CLASS + number:05d}.jpg"
    if name == "OxfordFlowers":
        return f"jpg/image_{label * PER_CLASS + number + 1:05d}.jpg"
    if name == "UCF101":
        return f"UCF-101-midframes/{CLASSES[name][key]}/v_{key}_g{number:02d}_c01.jpg"
    return f"{row.images}/{key}/image_{number:04d}.jpg"


def write_images(root, name):
    """Ten images of each class; return {path under the folder of the data set: (label, class name)}."""
    truth = {}
    for label, (key, classname) in enumerate(CLASSES[name].items()):
        for number in range(PER_CLASS):
            path = image_path(name, key, number)
            save(root / TABLE[name].folder / path)
            truth[path] = (label, classname)
    return truth


def write_split(root, name, truth):
    """split_zhou_<name>.json: of each class five images for training, two for validation, three for testing."""
    splits = {"train": [], "val": [], "test": []}
    for number, (path, (label, classname)) in enumerate(truth.items()):
        split = "train" if number % PER_CLASS < 5 else "val" if number % PER_CLASS < 7 else "test"
        relative = path.removeprefix(f"{TABLE[name].images}/")
        splits[split].append([relative, label, classname])
    (root / TABLE[name].folder / f"split_zhou_{name}.json").write_text(json.dumps(splits))
    return splits


def write_annotations(root, name):
    """The data set's own annotations of the images; six of ten are for training and validation."""
    folder, classes = root / TABLE[name].folder, CLASSES[name]
    each = [(label, key, number) for label, key in enumerate(classes) for number in range(PER_CLASS)]
    parts = {"train": [entry for entry in each if entry[2] < 6], "test": [entry for entry in each if entry[2] >= 6]}

    def write(path, lines):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]))

    if name == "Caltech101":
        for key in ("BACKGROUND_Google", "Faces_easy"):
            save(folder / TABLE[name].images / key / "image_0001.jpg")
    if name == "OxfordPets":
        for part, file in (("train", "trainval"), ("test", "test")):
            lines = [f"{key}_{number} {label + 1} 1 1" for label, key, number in parts[part]]
            write(folder / "annotations" / f"{file}.txt", lines)
    if name == "SUN397":
        write(folder / "ClassName.txt", [f"/{key}" for key in classes])
        for part, file in (("train", "Training_01"), ("test", "Testing_01")):
            write(folder / f"{file}.txt", [f"/{key}/image_{number:04d}.jpg" for _, key, number in parts[part]])
    if name == "UCF101":
        write(folder / "ucfTrainTestlist/classInd.txt", [f"{label + 1} {key}" for label, key in enumerate(classes)])
        for part in parts:
            lines = [f"{key}/v_{key}_g{number:02d}_c01.avi {label + 1}" for label, key, number in parts[part]]
            write(folder / f"ucfTrainTestlist/{part}list01.txt", lines)
    if name == "OxfordFlowers":
        io = pytest.importorskip("scipy.io")
        io.savemat(folder / "imagelabels.mat", {"labels": np.array([[label + 1 for label, _, _ in each]], np.uint8)})
        (folder / "cat_to_name.json").write_text(json.dumps(classes))
    if name == "StanfordCars":
        io = pytest.importorskip("scipy.io")
        (folder / "devkit").mkdir()
        io.savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([list(classes)], object)})
        kind = [("bbox_x1", object), ("class", object), ("fname", object)]
        for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
            rows = [(1, label + 1, f"{label * PER_CLASS + number:05d}.jpg") for label, _, number in parts[part]]
            io.savemat(folder / file, {"annotations": np.array([rows], kind)})


def write_aircraft(root):
    folder, variants = root / "fgvc_aircraft", ["707-320", "Boeing 717", "DR-400"]
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("\n".join(variants) + "\n")
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        lines = []
        for label, variant in enumerate(variants):
            for number in range(count):
                image = f"{split}{label}{number:02d}"
                save(folder / "images" / f"{image}.jpg")
                lines.append(f"{image} {variant}")
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    return variants


def write_variant(root, name):
    folder, images, *_ = VARIANTS[name]
    folders = (
        [str(i) for i in range(4)] if name == "ImageNetV2" else list(WNIDS)[: 4 if name == "ImageNetSketch" else 3]
    )
    for directory in folders:
        for number in range(3):
            save(root / folder / images / directory / f"{number}.jpeg")
    (root / folder / images / "README.txt").write_text("about")
    (root / folder / "classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in WNIDS.items()))
    return folders


def make_cfg(name, root, **values):
    cfg = get_cfg_default()
    DATASET_REGISTRY.get(name).extend_cfg(cfg)
    seed = values.pop("SEED", 1)
    pairs = {"DATASET.NAME": name, "DATASET.ROOT": str(root), "SEED": seed}
    merge_pairs(cfg, {**pairs, **{f"DATASET.{key}": value for key, value in values.items()}})
    return cfg


def read(name, root, **values):
    cfg = make_cfg(name, root, **values)
    set_random_seed(cfg.SEED)
    return build_dataset(cfg)


def content(items, folder):
    return [[os.path.relpath(item.impath, folder), item.label, item.classname] for item in items]


def our_readers():
    """Names of the readers of this repository; tests register others."""
    names = DATASET_REGISTRY.registered_names()
    return [name for name in names if DATASET_REGISTRY.get(name).__module__.startswith("datasets.")]


def splits_of(dataset):
    return dataset.train_x, dataset.val, dataset.test


# The nine with a split file


@pytest.mark.parametrize("name", TABLE)
def test_a_published_split_is_read_as_it_is(name, tmp_path):
    truth = write_images(tmp_path, name)
    expected = write_split(tmp_path, name, truth)
    dataset = read(name, tmp_path)
    assert dataset.classnames == list(CLASSES[name].values())
    for items, split in zip(splits_of(dataset), ("train", "val", "test"), strict=True):
        assert content(items, tmp_path / TABLE[name].folder / TABLE[name].images) == expected[split]


@pytest.mark.parametrize("name", TABLE)
def test_what_a_split_reader_lacks_is_told(name, tmp_path):
    folder = tmp_path / TABLE[name].folder
    with pytest.raises(FileNotFoundError, match=f"no folder {folder}.*: it should hold the images, from .*http"):
        read(name, tmp_path)
    truth = write_images(tmp_path, name)
    missing = f"no file {folder}/split_zhou_{name}.json: .*DATASETS.md, https://drive.google.com.* MAKE_SPLIT"
    with pytest.raises(FileNotFoundError, match=missing.replace(" MAKE", "MAKE")):
        read(name, tmp_path)
    write_split(tmp_path, name, truth)
    lost = folder / list(truth)[0]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"no image at {lost}"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", TABLE)
def test_a_split_made_here_is_of_the_data_sets_own_annotations(name, tmp_path):
    truth = write_images(tmp_path, name)
    write_annotations(tmp_path, name)
    folder = tmp_path / TABLE[name].folder
    with pytest.warns(UserWarning, match="not comparable with published ones"):
        dataset = read(name, tmp_path, MAKE_SPLIT=True)
    assert dataset.classnames == list(CLASSES[name].values())
    contents = [content(items, folder) for items in splits_of(dataset)]
    assert {path: (label, classname) for items in contents for path, label, classname in items} == truth
    counts = [[sum(entry[1] == label for entry in items) for label in range(len(CLASSES[name]))] for items in contents]
    sizes = (5, 1, 4) if name in OFFICIAL_TEST else (5, 2, 3)
    assert counts == [[size] * len(CLASSES[name]) for size in sizes]
    if name in OFFICIAL_TEST:
        numbers = {image_path(name, key, number) for key in CLASSES[name] for number in range(6, PER_CLASS)}
        assert {path for path, _, _ in contents[2]} == numbers
    assert not (folder / f"split_zhou_{name}.json").exists()


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_a_split_made_here_is_the_same_for_every_seed(tmp_path):
    write_images(tmp_path, "EuroSAT")
    draws = []
    for seed, disturbance in ((1, 5), (1, 6), (2, 5)):
        cfg = make_cfg("EuroSAT", tmp_path, MAKE_SPLIT=True, SEED=seed)
        random.seed(disturbance)
        state = random.getstate()
        draws.append([content(items, tmp_path) for items in splits_of(build_dataset(cfg))])
        assert random.getstate() == state
    assert draws[0] == draws[1] == draws[2]
    assert draws[0][0] != sorted(draws[0][0])  # and is a draw, not the first images


def test_the_published_split_comes_before_one_made_here(tmp_path):
    truth = write_images(tmp_path, "Food101")
    expected = write_split(tmp_path, "Food101", truth)
    dataset = read("Food101", tmp_path, MAKE_SPLIT=True)
    assert content(dataset.train_x, tmp_path / "food-101/images") == expected["train"]


@pytest.mark.filterwarnings("ignore:.*not comparable")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("OxfordPets", "annotations/trainval.txt"),
        ("OxfordFlowers", "imagelabels.mat"),
        ("OxfordFlowers", "cat_to_name.json"),
        ("StanfordCars", "devkit/cars_meta.mat"),
        ("StanfordCars", "cars_test_annos_withlabels.mat"),
        ("SUN397", "ClassName.txt"),
        ("UCF101", "ucfTrainTestlist/classInd.txt"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "garbage", "empty"])
def test_annotations_that_miss_or_are_damaged_are_told(name, file, damage, tmp_path):
    write_images(tmp_path, name)
    write_annotations(tmp_path, name)
    path = tmp_path / TABLE[name].folder / file
    path.unlink() if damage == "missing" else path.write_bytes(b"\xff\xfe\x80 garbage" if damage == "garbage" else b"")
    with pytest.raises((UserError, OSError)) as caught:
        read(name, tmp_path, MAKE_SPLIT=True)
    # an empty list of training images is no mistake of the list that is to be seen in it
    assert path.name in str(caught.value) or damage == "empty"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda split: split.pop("val"), "must hold lists"),
        (lambda split: split["train"].append(["a.jpg", 1]), r"must hold \[path, label, class name\]"),
        (lambda split: split["train"][0].__setitem__(1, "0"), r"must hold \[path, label, class name\]"),
        (lambda split: split["train"][0].__setitem__(2, "ramen"), "is both"),
        (lambda split: split["test"][0].__setitem__(1, 7), "no training images|is both"),
        (lambda split: split.update(train=split["train"][5:]), "class 0 .* has no training images"),
        (lambda split: split.update(test=[]), "has no test images"),
        (lambda split: split.update(train=[]), "has no training images"),
    ],
)
def test_a_wrong_split_file_is_told(change, message, tmp_path):
    truth = write_images(tmp_path, "Food101")
    split = write_split(tmp_path, "Food101", truth)
    change(split)
    (tmp_path / "food-101/split_zhou_Food101.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=message):
        read("Food101", tmp_path)


# FGVC-Aircraft and ImageNet's variants


def test_aircraft(tmp_path):
    variants = write_aircraft(tmp_path)
    dataset = read("FGVCAircraft", tmp_path)
    assert dataset.classnames == variants and [len(items) for items in splits_of(dataset)] == [15, 6, 9]
    assert [item.label for item in dataset.val] == [0, 0, 1, 1, 2, 2]
    assert dataset.test[3].impath == str(tmp_path / "fgvc_aircraft/images/test100.jpg")
    folder = tmp_path / "fgvc_aircraft"
    (folder / "variants.txt").write_text("707-320\nDR-400\n")
    with pytest.raises(UserError, match='variants.txt has no "Boeing 717"'):
        read("FGVCAircraft", tmp_path)
    for piece in ("images_variant_val.txt", "variants.txt"):
        (folder / piece).unlink()
        with pytest.raises(FileNotFoundError, match=f"no file {folder}/{piece}: .*fgvc-aircraft"):
            read("FGVCAircraft", tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_imagenet(name, tmp_path):
    folders = write_variant(tmp_path, name)
    dataset = read(name, tmp_path, NUM_SHOTS=1)
    assert dataset.classnames == list(WNIDS.values())[: len(folders)]
    assert dataset.train_x == dataset.test and not dataset.val
    assert [item.label for item in dataset.test] == [label for label in range(len(folders)) for _ in range(3)]
    assert [Path(item.impath).parent.name for item in dataset.test[::3]] == folders
    new = read(name, tmp_path, SUBSAMPLE_CLASSES="new")
    assert {Path(item.impath).parent.name for item in new.test} == set(folders[2:])
    folder, images, *_ = VARIANTS[name]
    empty = tmp_path / folder / images / folders[1]
    shutil.rmtree(empty)
    empty.mkdir()
    with pytest.raises(UserError, match=f"{empty} has no images"):
        read(name, tmp_path)
    (tmp_path / folder / "classnames.txt").unlink()
    with pytest.raises(FileNotFoundError, match="classnames.txt: copy it from imagenet/"):
        read(name, tmp_path)


def test_one_of_two_classes_of_the_same_name_is_missed(tmp_path):
    write_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "imagenet/images/val/n03126707")  # a crane, as is n02012849
    with pytest.raises(UserError, match="train and val must have the same <wnid> folders"):
        read("ImageNet", tmp_path)


def test_folders_of_imagenetv2_count_the_lines_of_classnames(tmp_path):
    write_variant(tmp_path, "ImageNetV2")
    folder = tmp_path / "imagenetv2"
    lines = (folder / "classnames.txt").read_text().splitlines(keepends=True)
    (folder / "classnames.txt").write_text("".join(reversed(lines)))
    with pytest.raises(UserError, match="sorted by <wnid>"):
        read("ImageNetV2", tmp_path)
    (folder / "classnames.txt").write_text("".join(lines[:3]))
    with pytest.raises(UserError, match="folders 0 to 2, one for each line"):
        read("ImageNetV2", tmp_path)


# What all share: few-shot draws, their record, halves of the classes


def plain_draw(items, shots):
    """The ecosystem's draw: one random.sample of each class, classes by first appearance, all if there are too few."""
    labels, drawn = [], []
    for item in items:
        if item[1] not in labels:
            labels.append(item[1])
    for label in labels:
        of_class = [item for item in items if item[1] == label]
        drawn += random.sample(of_class, shots) if len(of_class) >= shots else of_class
    return drawn


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """A Caltech101 of 20 training and 6 validation images a class, in an order of no system."""
    root = tmp_path_factory.mktemp("shuffled")
    splits = {"train": [], "val": [], "test": []}
    for split, count in (("train", 20), ("val", 6), ("test", 3)):
        for label, name in enumerate(("face", "airplane", "yin_yang")):
            for number in range(count):
                save(root / "caltech-101/101_ObjectCategories" / name / f"{split}{number}.jpg")
                splits[split].append([f"{name}/{split}{number}.jpg", label, name])
        random.Random(split).shuffle(splits[split])
    (root / "caltech-101/split_zhou_Caltech101.json").write_text(json.dumps(splits))
    return root, splits


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_a_few_shot_draw_is_the_ecosystems(shuffled, seed, shots):
    root, splits = shuffled
    pickled = root / "caltech-101/split_fewshot" / f"shot_{shots}-seed_{seed}.pkl"
    pickled.parent.mkdir(exist_ok=True)
    pickled.write_bytes(b"not to be unpickled")
    random.seed(seed)
    expected = [plain_draw(splits["train"], shots), plain_draw(splits["val"], min(shots, 4))]
    following = random.random()
    for _ in range(2):  # the second time its record is there
        dataset = read("Caltech101", root, NUM_SHOTS=shots, SEED=seed)
        assert random.random() == following
        images = root / "caltech-101/101_ObjectCategories"
        assert [content(dataset.train_x, images), content(dataset.val, images)] == expected
        record = json.loads(pickled.with_suffix(".json").read_text())
        assert [[path.removeprefix("101_ObjectCategories/"), *rest] for path, *rest in record["train"]] == expected[0]
        assert [len(record["train"]), len(record["val"])] == [3 * shots, 3 * min(shots, 4)]
    assert pickled.read_bytes() == b"not to be unpickled"
    assert len(dataset.test) == 9


def test_what_is_not_written_down(shuffled, tmp_path):
    root, _ = shuffled
    shutil.copytree(root, tmp_path / "copy")
    record = tmp_path / "copy/caltech-101/split_fewshot"
    shutil.rmtree(record, ignore_errors=True)
    random.seed(0)
    build_dataset(make_cfg("Caltech101", tmp_path / "copy", NUM_SHOTS=1, SEED=-1))
    read("Caltech101", tmp_path / "copy")
    assert not record.exists()
    record.write_text("a file where the folder should be, as on a disk that cannot be written")
    with pytest.warns(UserWarning, match="not written down"):
        assert len(read("Caltech101", tmp_path / "copy", NUM_SHOTS=1).train_x) == 3


def test_too_many_shots_are_told(shuffled):
    with pytest.raises(UserError, match="has only 20 training images: use at most 20"):
        read("Caltech101", shuffled[0], NUM_SHOTS=21)


def test_halves_of_the_classes_are_taken_after_the_draw(shuffled):
    root, _ = shuffled
    whole, base, new = (
        read("Caltech101", root, NUM_SHOTS=2, SUBSAMPLE_CLASSES=half) for half in ("all", "base", "new")
    )
    assert base.classnames == ["face", "airplane"] and new.classnames == ["yin_yang"]
    assert {item.label for items in splits_of(new) for item in items} == {0}
    drawn = [{item.impath for item in dataset.train_x} for dataset in (whole, base, new)]
    assert drawn[0] == drawn[1] | drawn[2] and not drawn[1] & drawn[2]
    # the record is of the whole draw, whatever half of it is used
    assert len(json.loads((root / "caltech-101/split_fewshot/shot_2-seed_1.json").read_text())["train"]) == 6


# A user's own images


def write_folder(root, classes, count, split=""):
    for name in classes:
        for number in range(count):
            save(root / split / name / f"{number}.png")


def test_own_folder_without_splits(tmp_path):
    write_folder(tmp_path, ["garden_gnome", "Zürich", "train"], 10)
    (tmp_path / "README.txt").write_text("not a class")
    for _ in range(2):  # the second time, the record of the draw is there, and no class
        dataset = read("ImageFolder", tmp_path, NUM_SHOTS=2)
        assert dataset.classnames == ["Zürich", "garden gnome", "train"]
    dataset = read("ImageFolder", tmp_path)
    assert [len(items) for items in splits_of(dataset)] == [15, 6, 9]
    assert len({item.impath for items in splits_of(dataset) for item in items}) == 30
    other = read("ImageFolder", tmp_path, SEED=2)
    assert {item.impath for item in other.test} == {item.impath for item in dataset.test}  # no run trains on it
    for item in dataset.test:
        assert Path(item.impath).parent.name.replace("_", " ") == item.classname == dataset.lab2cname[item.label]


@pytest.mark.parametrize("with_val", [True, False])
def test_own_folder_with_splits(tmp_path, with_val):
    write_folder(tmp_path, ["a_b", "c"], 3, "train")
    write_folder(tmp_path, ["c"], 2, "test")
    if with_val:
        write_folder(tmp_path, ["a_b"], 1, "val")
    dataset = read("ImageFolder", tmp_path)
    assert dataset.classnames == ["a b", "c"] and [item.label for item in dataset.test] == [1, 1]
    assert [item.label for item in dataset.val] == ([0] if with_val else [])
    write_folder(tmp_path, ["d"], 1, "test")
    with pytest.raises(UserError, match="test/d: there is no such class"):
        read("ImageFolder", tmp_path)
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path}/test: beside train/"):
        read("ImageFolder", tmp_path)


def test_names_of_own_classes(tmp_path):
    write_folder(tmp_path, ["n1", "n1 b", "n2"], 4)
    (tmp_path / "classnames.txt").write_text("n2 grey_heron\nn1\twhite stork\nn1 b great egret\nn9 of another set\n")
    assert read("ImageFolder", tmp_path).classnames == ["white stork", "great egret", "grey heron"]
    (tmp_path / "classnames.txt").write_text("n2 stork\nn1 stork\nn1 b egret\n")
    with pytest.raises(UserError, match='give n1 and n2 a class name each, in classnames.txt; got "stork"'):
        read("ImageFolder", tmp_path)
    (tmp_path / "classnames.txt").write_text("n2 stork\n")
    with pytest.raises(UserError, match='classnames.txt has no line "n1 <class name>"'):
        read("ImageFolder", tmp_path)


def test_mistakes_in_an_own_folder_are_told(tmp_path):
    with pytest.raises(UserError, match="needs DATASET.ROOT"):
        read("ImageFolder", "")
    with pytest.raises(FileNotFoundError, match="no folder .*DATASET.ROOT should be the folder of your images"):
        read("ImageFolder", tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no folders: it should hold one folder of images per class"):
        read("ImageFolder", tmp_path)
    write_folder(tmp_path, ["a"], 3)
    with pytest.raises(UserError, match='class "a" has only 3 images, too few to split'):
        read("ImageFolder", tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b has no images"):
        read("ImageFolder", tmp_path)
    (tmp_path / "b").rmdir()
    (tmp_path / "b").symlink_to("b")
    with pytest.raises(UserError, match="b is a link that leads nowhere"):
        read("ImageFolder", tmp_path)


def write_csv(root, rows, header=("path", "label", "split"), name="images.csv"):
    with open(root / name, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([header, *rows])


def csv_rows(root, labels):
    rows = []
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for label in labels:
            for number in range(count):
                save(root / "images" / f"{split} {label},{number}.png")
                rows.append([f"images/{split} {label},{number}.png", label, split])
    return rows


def test_csv(tmp_path):
    rows = csv_rows(tmp_path, ["wood duck", "éider", "9", "10"])
    write_csv(tmp_path, [[*row, "a further column"] for row in rows], ("path", "label", "split", "note"))
    dataset = read("CSV", tmp_path)
    assert dataset.classnames == ["10", "9", "wood duck", "éider"]
    assert [len(items) for items in splits_of(dataset)] == [16, 4, 8]
    assert all(f"{item.classname}," in item.impath for items in splits_of(dataset) for item in items)
    write_csv(tmp_path, csv_rows(tmp_path, ["0", "10", "9"]))
    (tmp_path / "classnames.txt").write_text("10 ten\n9 nine\n0 zero\n")
    assert read("CSV", tmp_path).classnames == ["zero", "nine", "ten"]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (("path", "label"), ["a.png", "x"], "no column split"),
        (("path;label;split",), ["a.png;x;train"], "no column path: the first line should be path,label,split"),
        (("path", "label", "split"), ["a.png", "x", "dev"], "line 6: need a path, a label and a split of train, val"),
        (("path", "label", "split"), ["a.png", "x"], "line 6: need a path"),
        (("path", "label", "split"), ["./images/train x,0.png", "y", "test"], "line 6: .* is in line 2 already"),
        (("path", "label", "split"), ["a.png", "y", "test"], "has no training images"),
        (("path", "label", "split"), ["a.png", "x", "test"], "no image at .*a.png"),
    ],
)
def test_mistakes_in_a_csv_file_are_told(header, row, message, tmp_path):
    with pytest.raises(FileNotFoundError, match="no .csv file in"):
        read("CSV", tmp_path)
    write_csv(tmp_path, [*csv_rows(tmp_path, ["x"])[:4], row], header)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        read("CSV", tmp_path)
    (tmp_path / "other.csv").touch()
    with pytest.raises(UserError, match="should hold one .csv file, got images.csv, other.csv"):
        read("CSV", tmp_path)


# Images of other kinds


@pytest.mark.parametrize("name", OOD_SETS)
def test_ood_sets(name, tmp_path):
    folder = tmp_path / OOD_SETS[name]
    with pytest.raises(FileNotFoundError, match=f"no folder {folder} with OOD images: give iNaturalist, SUN"):
        read_ood(name, tmp_path)
    for path in ("b.jpg", "a/b/1.jpg", "a/2.JPEG", ".hidden/3.jpg", "a/list.txt"):
        save(folder / path) if path != "a/list.txt" else (folder / path).write_text("")
    (folder / "a/loop").symlink_to(folder)
    items = read_ood(name, tmp_path)
    assert content(items, folder) == [[path, -1, name] for path in ("a/2.JPEG", "a/b/1.jpg", "b.jpg")]
    assert content(read_ood(str(folder)), folder) == [
        [path, -1, "images"] for path in ("a/2.JPEG", "a/b/1.jpg", "b.jpg")
    ]


def test_an_ood_folder_without_images_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        read_ood(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="give iNaturalist, SUN, Places, Textures .* or the path of a folder"):
        read_ood("Sun", tmp_path)


# All readers


def test_config_files_have_the_ecosystems_names():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs/datasets").glob("*.yaml")}
    names = [tree["DATASET"].pop("NAME") for tree in files.values()]
    assert sorted(names) == sorted(our_readers())
    assert all(tree == {"DATASET": {}} for tree in files.values())


def test_a_users_reader_takes_the_name_of_ours():
    class EuroSAT:
        pass

    ours = DATASET_REGISTRY.get("EuroSAT")
    try:
        assert DATASET_REGISTRY.register(EuroSAT) is DATASET_REGISTRY.get("EuroSAT")
    finally:
        DATASET_REGISTRY.register(ours, force=True)
        DATASET_REGISTRY._fallbacks.add("EuroSAT")


# Damage


NAMES_OF_OWN = {"blue": "sky blue", "green": "grass", "red": "rose"}


def write_own(root, name):
    if name == "ImageFolder":
        write_folder(root, ["blue", "green", "red"], 10)
    elif name == "split ImageFolder":
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            write_folder(root, ["blue", "green", "red"], count, split)
    else:
        write_csv(root, csv_rows(root, ["blue", "green"]))
    if name != "CSV":
        (root / "classnames.txt").write_text("".join(f"{key} {name}\n" for key, name in NAMES_OF_OWN.items()))


def write_imagenet(root):
    for split in ("train", "val"):
        for wnid in WNIDS:
            for number in range(3):
                save(root / "imagenet/images" / split / wnid / f"{number}.JPEG")
    (root / "imagenet/classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in WNIDS.items()))


SUBJECTS = {
    "Caltech101": lambda root: write_split(root, "Caltech101", write_images(root, "Caltech101")),
    "EuroSAT": lambda root: write_images(root, "EuroSAT"),
    "OxfordPets": lambda root: (write_images(root, "OxfordPets"), write_annotations(root, "OxfordPets")),
    "UCF101": lambda root: (write_images(root, "UCF101"), write_annotations(root, "UCF101")),
    "FGVCAircraft": write_aircraft,
    "ImageNet": write_imagenet,
    "ImageNetV2": lambda root: write_variant(root, "ImageNetV2"),
    "ImageNetR": lambda root: write_variant(root, "ImageNetR"),
    "ImageFolder": lambda root: write_own(root, "ImageFolder"),
    "split ImageFolder": lambda root: write_own(root, "split ImageFolder"),
    "CSV": lambda root: write_own(root, "CSV"),
    "OOD": lambda root: [save(root / "SUN/images" / path) for path in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "3.jpg")],
}


def read_subject(name, root):
    """All images of a subject's miniature as one list, each opened, and its class names."""
    if name == "OOD":
        items, classnames = read_ood("SUN", root), None
    else:
        dataset = read(name.split()[-1], root, MAKE_SPLIT=True)
        items, classnames = [item for items in splits_of(dataset) for item in items], dataset.classnames
    for item in items:
        assert read_image(item.impath).mode == "RGB"
    return items, classnames


def replace(path, how):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    how(path)


def truncate(path, generator):
    data = path.read_bytes()
    path.write_bytes(data[: generator.randrange(1, len(data))])


def wrong_json(path, generator):
    path.write_text(generator.choice(['{"train": [', "[]", '{"train": {}, "val": [], "test": []}', "[" * 5000, "null"]))


def lose_line(path, generator):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: (i := generator.randrange(len(lines)))] + lines[i + 1 :]))


FOLDER_DAMAGES = {
    "missing": lambda path, generator: shutil.rmtree(path),
    "empty": lambda path, generator: replace(path, Path.mkdir),
    "file": lambda path, generator: replace(path, Path.touch),
    "loop": lambda path, generator: replace(path, lambda link: link.symlink_to(link.name)),
    "link to its parent": lambda path, generator: replace(path, lambda link: link.symlink_to("..")),
    "name": lambda path, generator: path.rename(
        path.with_name(f"{path.name}_ßあ\n\udcff"[: generator.randrange(1, 20)])
    ),
}
FILE_DAMAGES = {
    "missing": lambda path, generator: path.unlink(),
    "0 bytes": lambda path, generator: path.write_bytes(b""),
    "garbage": lambda path, generator: path.write_bytes(generator.randbytes(40)),
    "folder": lambda path, generator: replace(path, Path.mkdir),
    "loop": lambda path, generator: replace(path, lambda link: link.symlink_to(link.name)),
    "name": lambda path, generator: path.rename(
        path.with_name(generator.choice(["é\n", "\udcff", "写真 "]) + path.name)
    ),
}
IMAGE_DAMAGES = {**FILE_DAMAGES, "truncated": truncate}
LIST_DAMAGES = {**FILE_DAMAGES, "line": lose_line}
JSON_DAMAGES = {**FILE_DAMAGES, "truncated": truncate, "wrong": wrong_json}


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """{subject: (its folder, {path under it: class name})}"""
    root, made = tmp_path_factory.mktemp("miniatures"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        for name, write in SUBJECTS.items():
            (root / name).mkdir()
            write(root / name)
            items, _ = read_subject(name, root / name)
            made[name] = root / name, {os.path.relpath(item.impath, root / name): item.classname for item in items}
    return made


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_200_damages_each_end_in_success_or_one_line(miniatures, tmp_path):
    generator, outcomes = random.Random(0), {"success": 0, "told": 0}
    for number in range(200):
        name = generator.choice(list(miniatures))
        folder, truth = miniatures[name]
        root = tmp_path / "damaged"
        shutil.copytree(folder, root)
        path = generator.choice([path for path in sorted(root.rglob("*")) if path != root])
        lists = JSON_DAMAGES if path.suffix == ".json" else LIST_DAMAGES if path.suffix in (".txt", ".csv") else None
        damages = FOLDER_DAMAGES if path.is_dir() else lists or IMAGE_DAMAGES
        damage = generator.choice(list(damages))
        damages[damage](path, generator)
        case = f"{number}: {name}, {damage} of {path.relative_to(root)!s:.99}"
        try:
            items, classnames = read_subject(name, root)
        except (UserError, OSError) as error:
            assert len(str(error).splitlines()) == 1, f"{case}: {error}"
            outcomes["told"] += 1
        else:
            unnamed = name.endswith("ImageFolder") and not (root / "classnames.txt").exists()  # a user's choice
            for item in items:
                expected = truth.get(os.path.relpath(item.impath, root), item.classname)
                assert item.classname == expected or unnamed and NAMES_OF_OWN[item.classname] == expected, case
                assert classnames is None or classnames[item.label] == item.classname, case
            outcomes["success"] += 1
        for link in root.rglob("*"):
            if link.is_symlink():
                link.unlink()
        shutil.rmtree(root)
    assert min(outcomes.values()) > 20

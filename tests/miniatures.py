"""Miniatures of data sets with the real layout and kinds of file, and how the tests read them."""

import csv
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import io

from dassl.config import get_cfg_default, merge_pairs
from dassl.data.datasets import build_dataset
from dassl.utils import set_random_seed
from datasets.imagenet import VARIANTS
from datasets.readers import DATASET_REGISTRY  # with all readers in it
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
        io.savemat(folder / "imagelabels.mat", {"labels": np.array([[label + 1 for label, _, _ in each]], np.uint8)})
        (folder / "cat_to_name.json").write_text(json.dumps(classes))
    if name == "StanfordCars":
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


def splits_of(dataset):
    return dataset.train_x, dataset.val, dataset.test


def write_folder(root, classes, count, split=""):
    for name in classes:
        for number in range(count):
            save(root / split / name / f"{number}.png")


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


def write_imagenet(root):
    for split in ("train", "val"):
        for wnid in WNIDS:
            for number in range(3):
                save(root / "imagenet/images" / split / wnid / f"{number}.JPEG")
    (root / "imagenet/classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in WNIDS.items()))


def our_readers():
    """Names of the readers of this repository; tests register others."""
    names = DATASET_REGISTRY.registered_names()
    return [name for name in names if DATASET_REGISTRY.get(name).__module__.startswith("datasets.")]

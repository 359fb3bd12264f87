"""The nine data sets with a split file: the published split, and one made here."""

import json
import random

import pytest
from miniatures import (
    CLASSES,
    OFFICIAL_TEST,
    PER_CLASS,
    content,
    image_path,
    make_cfg,
    read,
    splits_of,
    write_annotations,
    write_images,
    write_split,
)

from dassl.data.datasets import build_dataset
from dassl.utils import UserError
from datasets.splits import TABLE


@pytest.mark.parametrize("name", TABLE)
def test_a_published_split_is_read_as_it_is(name, tmp_path):
    truth = write_images(tmp_path, name)
    expected = write_split(tmp_path, name, truth)
    dataset = read(name, tmp_path)
    assert dataset.classnames == list(CLASSES[name].values())
    for items, split in zip(splits_of(dataset), ("train", "val", "test"), strict=True):
        assert content(items, tmp_path / TABLE[name].folder / TABLE[name].images) == expected[split]


@pytest.mark.parametrize("name", TABLE)
def test_a_split_reader_reports_what_is_missing(name, tmp_path):
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
def test_missing_or_damaged_annotations_are_refused(name, file, damage, tmp_path):
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
def test_a_wrong_split_file_is_refused(change, message, tmp_path):
    truth = write_images(tmp_path, "Food101")
    split = write_split(tmp_path, "Food101", truth)
    change(split)
    (tmp_path / "food-101/split_zhou_Food101.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=message):
        read("Food101", tmp_path)

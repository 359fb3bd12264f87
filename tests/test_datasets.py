"""Readers of the field's data sets, on miniatures with the real layout and kinds of file."""

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from miniatures import (
    CLASSES,
    OFFICIAL_TEST,
    PER_CLASS,
    ROOT,
    WNIDS,
    content,
    image_path,
    make_cfg,
    our_readers,
    read,
    save,
    splits_of,
    write_aircraft,
    write_annotations,
    write_imagenet,
    write_images,
    write_split,
    write_variant,
)

from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from dassl.utils import UserError
from datasets.imagenet import VARIANTS
from datasets.ood import OOD_SETS, read_ood
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

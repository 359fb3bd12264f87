"""Folders as people have them: at any depth, with other files, with other names of splits, with few images."""

import json
import os
import shutil

import pytest
from miniatures import read, save, splits_of, write_folder
from PIL import Image

import train
from dassl.utils import UserError
from dassl.utils.commands import Note
from dassl.utils.images import REMARKS
from datasets.reading import sizes_of_parts


def paths_in(dataset, root):
    """The sorted paths of all images of a data set, under its root."""
    return sorted(os.path.relpath(item.impath, root) for items in splits_of(dataset) for item in items)


def distinct(path):
    """Save an image that no other one is equal to."""
    distinct.number += 1
    save(path, (distinct.number // 256, distinct.number % 256, 7))


distinct.number = 0


def fill(root, *folders, count=6):
    for folder in folders:
        for number in range(count):
            distinct(root / folder / f"{number}.png")


def test_images_at_any_depth_below_a_class(tmp_path):
    fill(tmp_path, "rose/2021/june", "rose/2022", "rose", "leaf/garden")
    dataset = read("ImageFolder", tmp_path)
    expected = [
        f"{folder}/{i}.png" for folder in ("leaf/garden", "rose", "rose/2021/june", "rose/2022") for i in range(6)
    ]
    assert paths_in(dataset, tmp_path) == sorted(expected) and dataset.notes == ()
    assert dataset.classnames == ["leaf", "rose"]


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found", "$RECYCLE.BIN", ".git"])
def test_system_folders_are_no_classes(name, tmp_path):
    fill(tmp_path, "rose", "leaf", name, f"rose/{name}")
    with pytest.warns(Note, match="^left out: 2 hidden or system folders$"):
        dataset = read("ImageFolder", tmp_path)
    assert dataset.classnames == ["leaf", "rose"] and len(paths_in(dataset, tmp_path)) == 12
    assert dataset.notes == ["left out: 2 hidden or system folders"]


def test_what_is_left_out_is_counted(tmp_path):
    fill(tmp_path, "train/rose", "train/leaf", "test/rose", "test/leaf", "extra", "more/deep")
    for name in ("train/rose/notes.txt", "train/rose/a.zip", "test/readme.md", "train/.DS_Store", "test/leaf/._0.png"):
        (tmp_path / name).write_text("x")
    distinct(tmp_path / "train/loose.jpg")
    (tmp_path / "classnames.txt").write_text("rose red rose\nleaf leaf\n")
    (tmp_path / "train/leaf/again").symlink_to(".")  # a loop
    (tmp_path / "train/leaf/again.png").symlink_to("0.png")
    dataset = read("ImageFolder", tmp_path)
    assert dataset.notes == [
        "left out: 3 files that are no images, 2 hidden files, 1 image outside the class folders, "
        "2 links to what is read already, 2 folders (extra, more)"
    ]
    assert len(paths_in(dataset, tmp_path)) == 24


@pytest.mark.parametrize(
    "names",
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "TEST", "VAL"), ("train", "test", "validation")]
    + [("train", "test", "valid"), ("Training", "test", "dev"), ("train", "tst", "Validate")],
)
def test_splits_by_their_usual_names(names, tmp_path):
    for number, name in zip((5, 3, 2), names, strict=False):
        fill(tmp_path, f"{name}/rose", f"{name}/leaf", count=number)
    dataset = read("ImageFolder", tmp_path)
    assert [len(items) for items in splits_of(dataset)] == [10, 4 * (len(names) > 2), 6] and dataset.notes == ()


@pytest.mark.parametrize(
    "folders, message",
    [
        (
            ["val/a", "validation/a", "train/a", "test/a"],
            "both val and validation: put their images into one folder",
        ),
        (["val/a", "test/a"], "has test, val, but no train"),
        (["rose/train", "rose/test", "leaf/train"], "rose holds the splits test, train: splits within a class are not"),
        (
            ["flowers/rose", "flowers/leaf"],
            "the one folder flowers, .*leaf, rose.*ROOT should be .*flowers$",
        ),
        (["train/a", "train/b", "rose"], "no folder .*/test: beside train/"),
        (["train/a", "test"], "test has no folders"),
    ],
)
def test_folders_of_two_meanings_are_named(folders, message, tmp_path):
    fill(tmp_path, *folders)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        read("ImageFolder", tmp_path)


def test_a_class_of_trains_is_a_class(tmp_path):
    fill(tmp_path, "train", "plane")
    assert read("ImageFolder", tmp_path).classnames == ["plane", "train"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_same_image_by_a_link(link, tmp_path):
    fill(tmp_path, "train/a", "test/a", "train/b", "test/b")
    link(tmp_path / "train/a/0.png", tmp_path / "test/a/9.png")
    with pytest.raises(UserError, match="9.png is in test and, as .*train/a/0.png, in train: tested images must"):
        read("ImageFolder", tmp_path)
    shutil.move(tmp_path / "test/a/9.png", tmp_path / "train/b/9.png")
    with pytest.raises(UserError, match='9.png is of class "b" and, as .*0.png, of class "a"'):
        read("ImageFolder", tmp_path)


def test_equal_bytes_in_two_splits_are_said(tmp_path):
    fill(tmp_path, "train/a", "test/a", "val/a")
    for name in ("test/a/copy.png", "val/a/copy.png"):
        shutil.copy(tmp_path / "train/a/3.png", tmp_path / name)
    dataset = read("ImageFolder", tmp_path)
    (line,) = dataset.notes
    assert (
        "equal, byte by byte" in line and f": 2, such as {tmp_path}/val/a/copy.png to {tmp_path}/train/a/3.png" in line
    )


def test_sizes_of_parts():
    assert [sizes_of_parts(number, (0.5, 0.2)) for number in range(1, 6)] == [
        *([1, 0, 0], [1, 0, 1], [1, 1, 1]),
        *([2, 1, 1], [2, 1, 2]),
    ]
    assert sizes_of_parts(1, (0.2,)) == [0, 1] and sizes_of_parts(2, (0.2,)) == [1, 1]
    for number in range(3, 200):
        assert min(sizes_of_parts(number, (0.5, 0.2))) >= 1 and sum(sizes_of_parts(number, (0.5, 0.2))) == number


def test_long_tails(tmp_path):
    for name, count in {"many": 20, "three": 3, "two": 2, "one": 1}.items():
        fill(tmp_path, name, count=count)
    dataset = read("ImageFolder", tmp_path, NUM_SHOTS=4)
    counts = [{name: [item.classname for item in items].count(name) for name in dataset.classnames}
              for items in splits_of(dataset)]  # fmt: skip
    assert counts[0] == {"many": 4, "one": 1, "three": 1, "two": 1}
    assert counts[2] == {"many": 6, "one": 0, "three": 1, "two": 1}
    assert dataset.notes == [
        "fewer than 4 training images, all of which are taken: 3 of 4 classes (one 1, three 1, two 1)",
        "trained on, but not tested, for want of images: 1 of 4 classes (one)",
    ]
    with pytest.raises(UserError, match='NUM_SHOTS is 4, but class "one" has only 1 training images.*FEW_IMAGES take'):
        read("ImageFolder", tmp_path, NUM_SHOTS=4, FEW_IMAGES="stop")
    assert len(read("ImageFolder", tmp_path, NUM_SHOTS=-1).train_x) == 13


def test_an_images_end_in_any_case(tmp_path):
    for number, end in enumerate(("JPG", "Jpeg", "PNG", "jfif", "avif", "JP2", "heic", "tga")):
        path = tmp_path / "a" / f"{number}.{end}"
        fill(tmp_path, "a", count=1)
        shutil.copy(tmp_path / "a/0.png", path)
    fill(tmp_path, "b", count=1)
    assert len(paths_in(read("ImageFolder", tmp_path), tmp_path)) == 10


def test_a_run_writes_what_it_left_out_and_changed(tmp_path):
    """The second run reads the features that the first one made of the images, and says the same of them.

    Of the six transparent ones two are tested, and one sets the temperature.
    """
    fill(tmp_path / "mine", "rose", "leaf")
    fill(tmp_path / "mine", "fern", count=1)
    (tmp_path / "mine/rose/notes.txt").touch()
    for number in range(6):
        Image.new("RGBA", (9, 9), (200, 10 * number, 0, 90)).save(tmp_path / f"mine/rose/{number}.png")
    for name in ("first", "second"):
        command = f"--trainer ZeroshotCLIP --root {tmp_path}/mine --output-dir {tmp_path}/{name} --eval-only --seed 1"
        files = "--dataset-config-file configs/datasets/image_folder.yaml --config-file configs/backbones/small.yaml"
        options = f"DATASET.NUM_SHOTS 2 INPUT.FEATURE_CACHE {tmp_path}/features DATALOADER.NUM_WORKERS 0"
        with pytest.warns(Note, match="^3 images transparent: laid on the background"):
            assert train.main(f"{command} {files} {options}".split()) == 0
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["train_images"] == {"fern": 1, "leaf": 2, "rose": 2}
        assert [line.partition(":")[0] for line in results["notes"]] == [
            "left out",
            "fewer than 2 training images, all of which are taken",
            "trained on, but not tested, for want of images",
        ]
        assert results["remarks"] == {REMARKS["background"]: 3}


def test_classes_that_differ_in_case_only(tmp_path):
    fill(tmp_path, "Rose", "rose", "leaf")
    with pytest.raises(UserError, match='give Rose and rose a class name each, in classnames.txt; got "rose"'):
        read("ImageFolder", tmp_path)


def test_only_loose_images(tmp_path):
    write_folder(tmp_path, ["."], 3)
    with pytest.raises(UserError, match="has no folders"):
        read("ImageFolder", tmp_path)

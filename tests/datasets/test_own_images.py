"""A user's own images: folders and CSV files."""

import shutil
from pathlib import Path

import pytest
from miniatures import csv_rows, read, save, splits_of, write_csv, write_folder

from dassl.utils import UserError


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


def test_the_split_and_what_the_shots_need_are_said(tmp_path, recwarn):
    write_folder(tmp_path, ["rose", "leaf"], 8)
    dataset = read("ImageFolder", tmp_path, NUM_SHOTS=16)
    assert [len(items) for items in splits_of(dataset)] == [8, 4, 4]  # all images are used
    of_few, split, needed, *_ = (str(warning.message) for warning in recwarn)
    assert of_few.startswith("fewer than 16 training images, all of which are taken: 2 of 2 classes")
    assert split == "class leaf: 4 train, 2 val, 2 test; class rose: 4 train, 2 val, 2 test"
    need = int(needed.removeprefix("16 shots need ").split()[0])
    for number, shots in ((need - 1, 15), (need, 16)):  # of so many images of each class, so many are trained on
        write_folder(tmp_path / str(number), ["rose", "leaf"], number)
        assert len(read("ImageFolder", tmp_path / str(number)).train_x) == 2 * shots
    recwarn.clear()
    assert len(read("ImageFolder", tmp_path / str(need), NUM_SHOTS=16).train_x) == 32
    assert not any("shots need" in str(warning.message) for warning in recwarn)
    write_folder(tmp_path / "split", [f"c{i}" for i in range(7)], 2, "train")
    write_folder(tmp_path / "split", ["c1"], 1, "test")
    recwarn.clear()
    assert read("ImageFolder", tmp_path / "split", NUM_SHOTS=3).num_classes == 7
    _, split, needed, *_ = (str(warning.message) for warning in recwarn)
    assert split.startswith("class c0: 2 train, 0 val, 0 test; class c1: 2 train, 0 val, 1 test; ")
    assert (
        split.count("; ") == 5
        and split.endswith("; and 2 classes more")
        and needed == "3 shots need 3 images of each class, in train/"
    )


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


def test_mistakes_in_an_own_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="needs DATASET.ROOT"):
        read("ImageFolder", "")
    with pytest.raises(FileNotFoundError, match="no folder .*DATASET.ROOT should be the folder of your images"):
        read("ImageFolder", tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no folders: it should hold one folder of images per class"):
        read("ImageFolder", tmp_path)
    write_folder(tmp_path, ["a"], 3)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b has no images"):
        read("ImageFolder", tmp_path)
    (tmp_path / "b").rmdir()
    (tmp_path / "b").symlink_to("b")
    with pytest.raises(UserError, match="b is a broken link"):
        read("ImageFolder", tmp_path)


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
        (("path", "split"), ["a.png", "x"], "no column label: the first line should be path,label,split"),
        (("path", "label", "split"), ["a.png", "x", "devel"], "line 6: need a path, a label and a split of train, val"),
        (("path", "label", "split"), ["a.png", "x"], "line 6: need a path"),
        (("path", "label", "split"), ["./images/train x,0.png", "y", "test"], "line 6: .* is in line 2 already"),
        (("path", "label", "split"), ["images/other.png", "y", "test"], "has no training images"),
        (("path", "label", "split"), ["a.png", "x", "test"], "no image at .*a.png"),
    ],
)
def test_mistakes_in_a_csv_file_are_refused(header, row, message, tmp_path):
    with pytest.raises(FileNotFoundError, match="no .csv file in"):
        read("CSV", tmp_path)
    write_csv(tmp_path, [*csv_rows(tmp_path, ["x"])[:4], row], header)
    save(tmp_path / "images/other.png")
    with pytest.raises((UserError, FileNotFoundError), match=message):
        read("CSV", tmp_path)
    (tmp_path / "other.csv").touch()
    with pytest.raises(UserError, match="should hold one .csv file, got images.csv, other.csv"):
        read("CSV", tmp_path)


# Images of other kinds

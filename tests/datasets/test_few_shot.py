"""What all readers share: few-shot draws, their record, halves of the classes."""

import json
import random
import shutil

import pytest
from miniatures import (
    content,
    make_cfg,
    read,
    save,
    splits_of,
)

from dassl.data.datasets import build_dataset
from dassl.utils import UserError


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


def test_draws_that_are_not_recorded(shuffled, tmp_path):
    root, _ = shuffled
    shutil.copytree(root, tmp_path / "copy")
    record = tmp_path / "copy/caltech-101/split_fewshot"
    shutil.rmtree(record, ignore_errors=True)
    random.seed(0)
    build_dataset(make_cfg("Caltech101", tmp_path / "copy", NUM_SHOTS=1, SEED=-1))
    read("Caltech101", tmp_path / "copy")
    assert not record.exists()
    record.write_text("a file where the folder should be, as on a disk that cannot be written")
    with pytest.warns(UserWarning, match="not recorded"):
        assert len(read("Caltech101", tmp_path / "copy", NUM_SHOTS=1).train_x) == 3


def test_too_many_shots_are_refused(shuffled):
    with pytest.raises(UserError, match="has only 20 training images: use at most 20"):
        read("Caltech101", shuffled[0], NUM_SHOTS=21, FEW_IMAGES="stop")


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

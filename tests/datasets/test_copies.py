"""Images that are in two splits: the same bytes, nearly the same picture, and pictures that are not."""

import io
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from datasets.check import main
from datasets.copies import near_pairs, portrait

pytest.importorskip("imagehash")


def photo(seed, size=(160, 120)):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """{train,val,test}/a with 8 photos each, all different; a copy, a smaller one, one recompressed, one recoloured."""
    for number, split in enumerate(("train", "val", "test")):
        (tmp_path / split / "a").mkdir(parents=True)
        for i in range(8):
            photo(10 * number + i).save(tmp_path / split / "a" / f"{i}.png")
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "test/a/copy.png")
    photo(1).resize((80, 60)).save(tmp_path / "test/a/small.png")
    photo(12).save(tmp_path / "test/a/jpeg.jpg", quality=50)  # of val
    Image.merge("RGB", photo(2).split()[::-1]).save(tmp_path / "test/a/recoloured.png")
    return tmp_path


def test_deep_check_reports_copies_between_splits(folder, capsys):
    assert main(["ImageFolder", "--root", str(folder), "--deep"]) == 0
    out = capsys.readouterr().out
    lines = out[out.index("Tested images") :].splitlines()[1:]
    first = (
        f"in ImageFolder: 1 image of a later split in an earlier one: {folder}/test/a/copy.png equal, byte by byte, to "
    )
    assert lines[0] == f"{first}{folder}/train/a/0.png"
    assert lines[1].startswith("in ImageFolder: 2 images of a later split in an earlier one: ")
    assert f"{folder}/test/a/jpeg.jpg nearly the same picture as {folder}/val/a/2.png" in lines[1]
    assert f"{folder}/test/a/small.png nearly the same picture as {folder}/train/a/1.png" in lines[1]
    assert len(lines) == 2


def test_without_the_package_one_line_names_it(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    assert main(["ImageFolder", "--root", str(folder), "--deep"]) == 0
    assert "were not looked for: pip install imagehash" in capsys.readouterr().out


def test_own_images_are_checked_when_they_are_named(folder, capsys):
    assert main(["ImageFolder", "--root", str(folder / "nowhere")]) == 1
    assert main(["ImageFolder", "--root", str(folder)]) == 0
    assert "ImageFolder  found    8        8      12" in capsys.readouterr().out


def test_pairs_against_a_slow_search():
    generator, portraits = np.random.default_rng(0), {}
    for number in range(60):
        bits = np.where(generator.random(64) < 0.5, 1, -1).astype(np.int8)
        portraits[f"{number}"] = bits, np.zeros((8, 8, 3), np.uint8)
    for number, flips in ((20, 4), (21, 5), (45, 2)):  # copies of images 0, 1 and 25 with some bits changed
        bits = portraits[str({20: 0, 21: 1, 45: 25}[number])][0].copy()
        bits[generator.permutation(64)[:flips]] *= -1
        portraits[str(number)] = bits, portraits["0"][1]
    splits = [[str(i) for i in range(first, first + 20)] for first in (0, 20, 40)]
    expected = []
    for later in (1, 2):
        for path in splits[later]:
            earlier = [other for part in splits[:later] for other in part]
            near = [other for other in earlier if (portraits[path][0] != portraits[other][0]).sum() <= 4]
            expected += [(near[0], path)] if near else []
    assert near_pairs(splits, portraits) == expected == [("0", "20"), ("25", "45")]


def test_a_portrait_survives_compression():
    for seed in range(20):
        file = io.BytesIO()
        photo(seed).resize((100, 70)).save(file, "JPEG", quality=60)
        one, other = portrait(photo(seed)), portrait(Image.open(file))
        assert (one[0] != other[0]).sum() <= 4 and np.abs(one[1].astype(int) - other[1]).mean() <= 12

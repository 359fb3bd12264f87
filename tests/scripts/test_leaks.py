"""Nothing that is held out was pretrained on: names, aliases, synonyms, and pictures that look alike."""

import csv
import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageFilter

from scripts.embedded import pretraining_data
from scripts.embedded.leaks import NEAR, HeldOutNames, differing_bits, perceptual_hash

HERE = pretraining_data.HERE


@pytest.fixture(scope="module")
def seen():
    """The rows of all pictures of pretraining: set, picture, names, hash."""
    with gzip.open(HERE / "pictures.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def archive():
    """The held-out emoji: (index of the archive, {file: picture})."""
    with zipfile.ZipFile(HERE.parents[1] / "datasets/emoji/emoji.zip") as file:
        index = json.loads(file.read("index.json"))
        items = [i for i in index["images"] + index["ood"] if "concept" in i]
        pictures = {i["file"]: np.asarray(Image.open(io.BytesIO(file.read(i["file"]))).convert("RGB")) for i in items}
    return items, pictures


def test_no_name_in_pretraining_contains_a_held_out_one(seen, archive):
    names = (HERE / "held_out_names.txt").read_text(encoding="utf-8").splitlines()
    held_out = HeldOutNames(names)
    assert all(item["name"] in held_out for item in archive[0])
    found = [row for row in seen if any(name in held_out for name in row["names"].split("|"))]
    assert len(seen) > 20000 and not found, found[:5]


def test_held_out_names_are_found_among_other_words():
    held_out = HeldOutNames(["hot dog", "owl", "cherries"])
    for name in ("hot-dog", "dogs, hot ones", "owls", "the owl sign", "cherry"):
        assert name in held_out, name
    for name in ("dog", "hot", "bowl", "knowledge"):
        assert name not in held_out, name


def test_synonyms_and_aliases_are_on_the_list():
    names = set((HERE / "held_out_names.txt").read_text(encoding="utf-8").splitlines())
    assert names >= {"taxi", "cab", "pig", "hog", "fiddle", "violin"}


def test_no_picture_in_pretraining_looks_like_a_held_out_one(seen, archive):
    hashes = np.array([list(bytes.fromhex(row["hash"])) for row in seen], dtype=np.uint8)
    pictures = np.stack(list(archive[1].values()))
    held_out = perceptual_hash(np.concatenate([pictures, pictures[:, :, ::-1]]))
    bits = differing_bits(np.unpackbits(hashes, axis=1).astype(bool), held_out)
    assert bits.min() > NEAR - 3  # those of the archive have 256 colours, which changes a bit or two


def test_the_hash_sees_through_small_changes_and_tells_pictures_apart(archive):
    pictures = np.stack(list(archive[1].values())[::40])
    changed = [
        np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(0.7)).point(lambda v: int(0.9 * v + 10)))
        for p in pictures
    ]
    one, two = perceptual_hash(pictures), perceptual_hash(np.stack(changed))
    bits = (one[:, None] != two[None]).sum(axis=2)
    assert (np.diagonal(bits) <= NEAR).mean() > 0.9
    assert np.median(bits[~np.eye(len(bits), dtype=bool)]) > 20
    np.testing.assert_array_equal(differing_bits(one, two), bits.min(axis=1))


def test_every_set_is_attributed(seen):
    with open(HERE / "icon_sets.csv", newline="", encoding="utf-8") as file:
        sets = {row["set"]: row for row in csv.DictReader(file)}
    used = {row["set"] for row in seen} - {f"{style} emoji" for style in pretraining_data.PRETRAIN_STYLES}
    assert used == sets.keys() and all(row["licence"] and row["author"] for row in sets.values())
    # The card lists them once the shipped weights were made of them.
    card = (HERE.parents[1] / "sotglp/weights/README.md").read_text(encoding="utf-8")
    assert len([name for name in used if f"| {name} |" in card]) in (0, len(used))

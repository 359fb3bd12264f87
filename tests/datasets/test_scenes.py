"""Scenes: composed from the held-out emoji, with boxes that hold the object."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dassl.config import get_cfg_default
from dassl.utils import UserError
from datasets import scenes
from datasets.emoji import Emoji
from datasets.scenes import SIZE, Scenes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def make_cfg(root, **values):
    cfg = get_cfg_default()
    Scenes.extend_cfg(cfg)
    cfg.DATASET.ROOT = str(root)
    for key, value in values.items():
        cfg.DATASET[key] = value
    return cfg


def concepts(items):
    return {Path(item.impath).stem.rpartition("_")[0] for item in items}


@pytest.mark.parametrize("by", ["drawing", "concept"])
def test_scenes_follow_the_emoji_that_is_their_label(root, by):
    emoji, data = Emoji(make_cfg(root, SPLIT_BY=by)), Scenes(make_cfg(root, SPLIT_BY=by))
    assert data.classnames == emoji.classnames
    for split in ("train_x", "val", "test"):
        of_emoji = Counter((i.label, i.domain, Path(i.impath).stem) for i in getattr(emoji, split))
        items = getattr(data, split)
        of_scenes = Counter((i.label, i.domain, Path(i.impath).stem.rpartition("_")[0]) for i in items)
        assert of_scenes == {key: scenes.SCENES * number for key, number in of_emoji.items()}
    assert concepts(data.train_x).isdisjoint(concepts(data.test)) == (by == "concept")
    assert {i.classname for i in data.ood} == {scenes.OOD_KIND} and {i.label for i in data.ood} == {-1}


def test_boxes_hold_an_object_of_a_quarter_of_the_area_or_less(root):
    data = Scenes(make_cfg(root))
    items = data.train_x + data.val + data.test
    assert data.boxes.keys() == {item.impath for item in items}
    boxes = np.array([data.boxes[item.impath] for item in items])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0 and boxes.max() <= SIZE
    assert (sides.prod(axis=1) <= SIZE * SIZE / 4).all() and sides.max(axis=1).min() >= scenes.SIDES[0]
    assert boxes[:, :2].std(axis=0).min() > 8  # anywhere
    picture = Image.open(items[0].impath)
    assert picture.size == (SIZE, SIZE) and picture.mode == "RGB"


def test_a_scene_depends_on_its_generator_only():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 200, (40, 30, 4), dtype=np.uint8)) for _ in range(6)]
    textures = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)]
    (one, box), (again, same), (other, _) = (
        scenes.draw(np.random.default_rng(seed), pictures[0], pictures[1:], textures) for seed in (1, 1, 2)
    )
    assert box == same and one.tobytes() == again.tobytes() != other.tobytes()
    assert scenes.draw(np.random.default_rng(1), None, pictures, textures)[1] is None


def test_objects_do_not_overlap():
    rng = np.random.default_rng(0)
    for _ in range(50):
        canvas = np.zeros((SIZE, SIZE), dtype=int)
        for left, top, right, bottom in scenes.place(rng, [(32, 30), (26, 20), (20, 26), (18, 18)]):
            assert canvas[top:bottom, left:right].shape == (bottom - top, right - left)
            canvas[top:bottom, left:right] += 1
        assert canvas.max() == 1


def test_only_the_white_around_an_object_is_cut_off():
    picture = np.full((20, 20, 3), 255, dtype=np.uint8)
    picture[5:15, 4:16] = 0
    picture[7:13, 6:14] = 255  # white inside a frame stays
    cut = np.asarray(scenes.cut_out(picture))
    assert cut.shape == (10, 12, 4) and (cut[..., 3] == 255).all() and (cut[3, 4, :3] == 255).all()
    assert scenes.cut_out(np.full((8, 8, 3), 255, dtype=np.uint8)).size == (8, 8)


def test_a_patch_is_inside_if_its_centre_is():
    boxes = [(0, 0, 64, 64), (4, 0, 12, 5), (5, 12, 29, 29), (0, 0, 4, 4)]
    inside = scenes.patches_inside(boxes, 8).reshape(-1, 8, 8)
    for box, found in zip(boxes, inside, strict=True):
        for row in range(8):
            for column in range(8):
                x, y = 8 * column + 4, 8 * row + 4
                assert found[row, column] == (box[0] <= x < box[2] and box[1] <= y < box[3])


def test_a_damaged_folder_is_refused(root):
    data = Scenes(make_cfg(root))
    path = Path(data.test[0].impath)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(UserError, match="delete it"):
        Scenes(make_cfg(root))
    path.with_suffix(".away").rename(path)

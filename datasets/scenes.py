"""Scenes: an emoji of a class among two or three others of no class, anywhere on a plain or textured ground.

Each picture's box is known, so the data set shows whether a method looks at the object. The emoji are those of the data
set Emoji, which the small CLIP was not pretrained on.
"""

import json
import os
import os.path as osp
import tempfile

import numpy as np
from PIL import Image
from tqdm import tqdm

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError, read_image
from datasets.emoji import Emoji, read_index

SIZE = 64
SCENES = 2  # of each picture of Emoji
SIDES, OTHERS = (24, 32), (16, 26)  # pixels of the longer side: of the object, at most a quarter of the area; of others
WHITE = 244  # what is as bright as this and reaches the border is no part of an emoji
OOD_KIND = "scene without a class"
EDITION = 1


@DATASET_REGISTRY.register(fallback=True)  # a user's reader of this name wins
class Scenes(Emoji):
    """<ROOT>/scenes with <style>/<code points>_<number>.png and index.json, composed from <ROOT>/emoji on first use.

    Classes, splits, styles and their settings are those of Emoji: a scene is in the split of the emoji that is its
    label. The others in a scene are flags, letters, clocks and so on, in the same style.

    Attributes:
        ood: List of Datum with scenes that show no class.
        boxes: {path: (left, top, right, bottom) of the object in pixels}; nothing is cut off, no two objects overlap.

    Raises:
        UserError: As Emoji, or the folder is incomplete.
    """

    dataset_dir = "scenes"

    def __init__(self, cfg):
        super().__init__(cfg)
        self.boxes = read_boxes(cfg.DATASET.ROOT)

    @staticmethod
    def make(root):
        """Return the folder of the scenes under the root; compose them on first use, all or none.

        Raises:
            UserError: A scene is missing, or the folder is of another version.
        """
        folder = osp.join(root, Scenes.dataset_dir)
        if not osp.isdir(folder):
            emoji = Emoji.make(root)
            with tempfile.TemporaryDirectory(dir=root) as temporary:
                compose(emoji, osp.join(temporary, "scenes"))
                try:
                    os.rename(osp.join(temporary, "scenes"), folder)
                except OSError:
                    if not osp.isdir(folder):  # else another process was first
                        raise
        try:
            index = read_index(folder)
            whole = index["version"] == EDITION
            missing = [i["file"] for i in index["images"] + index["ood"] if not osp.isfile(osp.join(folder, i["file"]))]
        except (OSError, ValueError, KeyError):
            whole, missing = False, []
        if not whole or missing:
            raise UserError(f"{folder} is incomplete or of another version: delete it, and it is composed anew")
        return folder


def read_boxes(root):
    """Return {path: box} of all scenes with an object, see Scenes.boxes."""
    folder = Scenes.make(osp.abspath(osp.expanduser(root)))
    return {osp.join(folder, image["file"]): tuple(image["box"]) for image in read_index(folder)["images"]}


def patches_inside(boxes, side):
    """Return which of side x side patches have their centre in each box, (B, side * side) bool.

    Args:
        boxes: B of (left, top, right, bottom) in pixels of a scene.
        side: number of patches in a row.
    """
    left, top, right, bottom = np.asarray(boxes)[:, :, None].swapaxes(0, 1)
    centre = (np.arange(side) + 0.5) * SIZE / side
    across, down = (left <= centre) & (centre < right), (top <= centre) & (centre < bottom)
    return (down[:, :, None] & across[:, None, :]).reshape(len(boxes), -1)


def compose(emoji, folder):
    """Draw all scenes into a folder; the same pictures give the same scenes.

    Args:
        emoji: folder of the data set Emoji.
        folder: to make.
    """
    index = read_index(emoji)
    kinds = {}
    for image in index["ood"]:
        kinds.setdefault(image["style"], []).append(read_picture(emoji, image["file"]))
    textures = kinds.pop("texture")
    cut = {style: [cut_out(picture) for picture in pictures] for style, pictures in kinds.items()}
    for style in cut:
        os.makedirs(osp.join(folder, style))
    images, ood = [], []
    for n, image in enumerate(tqdm(index["images"], desc="Composing scenes", leave=False)):
        own = cut_out(read_picture(emoji, image["file"]))
        for k in range(SCENES):
            rng = np.random.default_rng([EDITION, n, k])
            scene, box = draw(rng, own, cut[image["style"]], textures)
            name = f"{osp.splitext(image['file'])[0]}_{k}.png"
            scene.save(osp.join(folder, name))
            images.append({**image, "file": name, "box": box})
    for style, others in cut.items():
        for k in range(len(others)):
            scene, _ = draw(np.random.default_rng([EDITION, k, *style.encode()]), None, others, textures)
            name = f"{style}/none_{k:03d}.png"
            scene.save(osp.join(folder, name))
            ood.append({"file": name, "style": style, "kind": OOD_KIND})
    content = {"version": EDITION, "classes": index["classes"], "images": images, "ood": ood}
    with open(osp.join(folder, "index.json"), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=0)


def read_picture(folder, name):
    """Return a picture as RGB, uint8 (64, 64, 3)."""
    return np.asarray(read_image(osp.join(folder, name)))


def cut_out(picture):
    """Return a picture (S, S, 3) without the white around it: RGBA, cropped to what is left."""
    from scipy.ndimage import label as connected  # here, because it takes a tenth of a second

    bright = np.pad(picture.min(axis=2) >= WHITE, 1, constant_values=True)
    areas, _ = connected(bright)
    solid = (areas != areas[0, 0])[1:-1, 1:-1]
    if not solid.any():
        solid = np.ones_like(solid)
    top, bottom = np.flatnonzero(solid.any(axis=1))[[0, -1]]
    left, right = np.flatnonzero(solid.any(axis=0))[[0, -1]]
    cropped = np.dstack([picture, 255 * solid.astype(np.uint8)])[top : bottom + 1, left : right + 1]
    return Image.fromarray(cropped)


def draw(rng, own, others, textures):
    """Return a scene as a PIL picture, and the box of the object.

    Args:
        rng: of all choices.
        own: the object, as ``cut_out`` returns it; None for a scene of others only.
        others: two or three of these are added, three or four without an object.
        textures: pictures (64, 64, 3); half of the grounds have one.

    Returns:
        The scene, and (left, top, right, bottom), None without an object.
    """
    number = int(rng.integers(2, 4)) + (own is None)
    objects = [others[i] for i in rng.choice(len(others), number, replace=False)]
    sides = [int(rng.integers(OTHERS[0], OTHERS[1] + 1)) for _ in objects]
    if own is not None:
        objects, sides = [own, *objects], [int(rng.integers(SIDES[0], SIDES[1] + 1)), *sides]
    scene = Image.fromarray(ground(rng, textures))
    objects = [resize(picture, side) for picture, side in zip(objects, sides, strict=True)]
    boxes = place(rng, [picture.size for picture in objects])
    for picture, box in zip(objects, boxes, strict=True):
        scene.paste(picture, box[:2], picture)
    return scene, boxes[0] if own is not None else None


def ground(rng, textures):
    """Return a ground (64, 64, 3) uint8: plain in half of the cases, else a texture, paled."""
    color = rng.uniform(90, 255, 3) if rng.random() < 0.7 else np.full(3, 255.0)
    plain = np.broadcast_to(color, (SIZE, SIZE, 3))
    if rng.random() < 0.5:
        texture = textures[rng.integers(len(textures))]
        strength = rng.uniform(0.2, 0.6)
        plain = (1 - strength) * plain + strength * texture
    return plain.round().astype(np.uint8)


def resize(picture, side):
    """Return a picture whose longer side has that many pixels."""
    width, height = (max(1, round(side * length / max(picture.size))) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def place(rng, sizes):
    """Return boxes (left, top, right, bottom) of these sizes (width, height) that do not overlap, anywhere."""
    while True:
        boxes = []
        for width, height in sizes:
            for _ in range(20):
                left, top = int(rng.integers(SIZE - width + 1)), int(rng.integers(SIZE - height + 1))
                box = (left, top, left + width, top + height)
                if all(box[2] <= b[0] or b[2] <= box[0] or box[3] <= b[1] or b[3] <= box[1] for b in boxes):
                    boxes.append(box)
                    break
        if len(boxes) == len(sizes):
            return boxes

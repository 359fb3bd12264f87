"""The shipped small CLIP follows an object: what is true of it at the left is true of it at the right."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from datasets.emoji import Emoji
from datasets.scenes import cut_out, resize
from scripts.embedded.evaluation import config
from sotglp import load_clip
from sotglp.matching import sparse_support
from sotglp.prompts import encode_names

SIDE, PATCH, OBJECT, K = 8, 8, 28, 10  # patches in a row, pixels of a patch and of the object, patches of a support
LEFT, RIGHT = 2, 34  # pixels: four patches apart


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """{place: (labels (B,), predicted (B,), cosines of the patches with the true class (B, P))} of held-out emoji."""
    cfg = config(str(tmp_path_factory.mktemp("data")))
    data, clip = Emoji(cfg), load_clip("small")
    items = [item for item in data.test if item.domain == Emoji.domains.index("twemoji")]
    labels, texts = torch.tensor([item.label for item in items]), encode_names(clip, data.classnames)
    mean, std = (torch.tensor(values)[:, None, None] for values in (clip.pixel_mean, clip.pixel_std))
    found = {}
    for place in (LEFT, RIGHT):
        images = torch.stack([(pil_to_tensor(on_white(item.impath, place)) / 255 - mean) / std for item in items])
        with torch.no_grad():
            whole, patches = (F.normalize(x @ clip.visual.proj, dim=-1) for x in clip.visual(images))
        cosines = (patches @ texts.T)[torch.arange(len(items)), :, labels]
        found[place] = labels, (whole @ texts.T).argmax(dim=1), cosines
    return found


def on_white(path, left):
    """The emoji of a file, small, at that place of a white picture."""
    emoji = resize(cut_out(np.asarray(Image.open(path).convert("RGB"))), OBJECT)
    picture = Image.new("RGB", (SIDE * PATCH, SIDE * PATCH), "white")
    picture.paste(emoji, (left + (OBJECT - emoji.width) // 2, (picture.height - emoji.height) // 2), emoji)
    return picture


def test_zero_shot_gives_a_moved_object_the_same_class(seen):
    labels, at_left, _ = seen[LEFT]
    at_right = seen[RIGHT][1]
    assert (at_left == at_right).float().mean() > 0.7
    assert abs((at_left == labels).float().mean() - (at_right == labels).float().mean()) < 0.06


def test_supports_and_heat_maps_move_with_the_object(seen):
    for place, here in (
        (LEFT, lambda patch: patch % SIDE < SIDE // 2),
        (RIGHT, lambda patch: patch % SIDE >= SIDE // 2),
    ):
        cosines = seen[place][2]
        assert here(cosines.argmax(dim=1)).float().mean() > 0.9  # of all patches half lie here
        assert here(sparse_support(cosines[..., None], K)).float().mean() > 0.7
    maps = [seen[place][2].view(-1, SIDE, 2, SIDE // 2) for place in (LEFT, RIGHT)]
    left, right, empty = (half.flatten(1) for half in (maps[0][:, :, 0], maps[1][:, :, 1], maps[1][:, :, 0]))
    moved, still = (correlation(left, other) for other in (right, empty))
    assert moved.mean() > 0.7 and (moved > still).float().mean() > 0.9


def correlation(a, b):
    """The correlation of the rows of two matrices, (B,)."""
    return F.cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True))

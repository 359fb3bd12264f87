"""Laws of the small CLIP's pretraining: captions, canvases, losses, and a run that was interrupted."""

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scripts.embedded import batches, losses, pretrain, pretraining
from scripts.embedded.augment import Augmenter
from scripts.embedded.captions import ATTRIBUTES, Captioner
from sotglp import load_clip

KINDS = {"dog": "mammal", "car": "vehicle", "cup": "tool", "coat": "clothes"}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path):
    """What make_data.py writes: 32 pictures of four concepts in two styles."""
    concepts = [
        {"kind": kind, "names": [name], "keywords": [], "categories": [label, "object"], "label": label}
        for (name, label), kind in zip(KINDS.items(), ("emoji", "emoji", "icon", "clothes"), strict=True)
    ]
    (tmp_path / "pretrain.json").write_text(json.dumps({"styles": ["noto", "icon"], "concepts": concepts}))
    pictures = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 5), dtype=np.uint8)
    pictures[..., 4] = 255
    np.savez(tmp_path / "pretrain.npz", pictures=pictures, concept=np.arange(32) % 4, style=np.arange(32) // 16)
    return tmp_path


def test_captions_are_true_of_their_own_pictures():
    concepts = [
        {"names": ["dog", "hound"], "keywords": ["pet"], "categories": ["mammal", "animal"]},
        {"names": ["cat"], "keywords": ["pet"], "categories": ["mammal"]},
        {"names": ["car"], "keywords": [], "categories": ["vehicle"]},
        {"names": ["toy car"], "keywords": [], "categories": ["toy"]},
    ]
    captioner, chosen = Captioner(concepts), torch.tensor([0, 1, 2, 0] * 10)
    attributes = torch.rand(40, len(ATTRIBUTES), generator=torch.Generator().manual_seed(0)) < 0.2
    tokens, nouns, named = captioner.write(chosen, attributes, random.Random(0))
    truth = captioner.truth(chosen, attributes, nouns, named)
    assert truth.diagonal().all() and named.any() and (attributes | ~named).all()
    assert not truth[chosen == 2][:, chosen != 2].any()
    assert (tokens.argmax(dim=1) == (tokens > 0).sum(dim=1) - 1).all()  # the end has the largest row, and is last
    assert captioner.is_noun_of[3, captioner.index["car"]] and not captioner.is_noun_of[2, captioner.index["toy car"]]


def test_canvases_depend_on_their_seed_only():
    pictures = torch.randint(0, 256, (8, 5, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    styles = ["noto", "icon"] * 4
    for draw in ("singles", "collages"):
        first, again = (getattr(Augmenter(torch.Generator().manual_seed(3)), draw)(pictures, styles) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        images, coverage, attributes = first
        assert images.min() >= 0 and images.max() <= 1
        assert coverage.max() <= 1.001 and len(attributes) == 8


def test_a_collage_shows_each_object_where_its_coverage_says():
    pictures = torch.zeros(160, 5, 64, 64, dtype=torch.uint8)
    pictures[:, 3:] = 255  # black squares
    _, coverage, _ = Augmenter(torch.Generator().manual_seed(0)).collages(pictures, ["noto"] * 160)
    assert coverage.sum(dim=1).max() <= 1.01  # what is hidden does not count
    seen = coverage.flatten(2).sum(dim=2) > 0
    assert seen[:, :2].all() and 0 < (~seen[:, 2:]).sum() < 80  # the last ones may be missing
    number = seen.sum(dim=1)
    assert {2, 3, 4} == set(number.tolist())


def test_a_batch_names_what_its_canvases_show(folder):
    batch = batches.Pictures(folder).batch(6, 5, seed=0)
    assert batch.images.shape == (11, 3, 64, 64) and batch.share.shape == (len(batch.canvas), batches.PATCHES)
    assert batch.truth.diagonal().all() and batch.share.sum(dim=1).min() > 0.3
    assert (batch.canvas[1:] >= batch.canvas[:-1]).all() and batch.canvas.max() == 10
    again = batches.Pictures(folder).batch(6, 5, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def test_kinds_have_their_shares_of_the_draws(folder):
    pictures = batches.Pictures(folder)
    kinds = np.array(["emoji", "emoji", "icon", "clothes"] * 8)
    for kind, share in batches.SHARES.items():
        assert pictures.weight[torch.from_numpy(kinds == kind)].sum().item() == pytest.approx(share, abs=1e-5)


def test_matching_loss_is_clips_loss_for_one_caption_each():
    images, texts = normal(2, 5, 8).unbind()
    a, b = (F.normalize(x, dim=-1) for x in (images, texts))
    target = torch.arange(5)
    expected = sum(F.cross_entropy(7 * m, target) for m in (a @ b.T, b @ a.T)) / 2
    loss = losses.matching_loss(images, texts, torch.eye(5, dtype=torch.bool), 7)
    torch.testing.assert_close(loss, expected)


def test_a_picture_of_no_category_should_be_like_all_of_them():
    truth = torch.tensor([[True, False, False], [False, False, False], [True, True, True]])
    judged = torch.tensor([True, True, False])
    sure, even = torch.tensor([9.0, 0, 0]), torch.zeros(3)
    good, bad = (
        losses.category_loss(torch.stack([sure, other, sure]), truth, judged, torch.arange(3)).item()
        for other in (even, sure)
    )
    assert good == pytest.approx(0, abs=1e-3) and bad > 1


def test_pointing_asks_for_the_mass_on_the_object():
    logits = torch.zeros(1, 4, 2)
    logits[0, 1, 0] = 20  # the first text looks at patch 1
    inside = torch.zeros(1, 4, 2)
    inside[0, 1] = 1
    first, second = (
        losses.pointing_loss(logits, inside, torch.tensor([asked])).item() for asked in ([True, False], [False, True])
    )
    assert first == pytest.approx(0, abs=1e-3) and second == pytest.approx(np.log(4), abs=1e-2)


def test_the_sum_of_patches_is_over_those_that_were_kept():
    patches = [normal(2, 3, 5), normal(1, 4, 5, seed=1)]
    places = [torch.tensor([[0, 2, 3], [1, 2, 3]]), torch.arange(4)[None]]
    canvas, weight = torch.tensor([1, 2, 0]), torch.rand(3, 4, generator=torch.Generator().manual_seed(2))
    summed = losses.sum_patches(patches, places, canvas, weight)
    for n, c in enumerate(canvas.tolist()):
        group, row = (0, c) if c < 2 else (1, 0)
        expected = sum(weight[n, p] * patches[group][row, j] for j, p in enumerate(places[group][row].tolist()))
        torch.testing.assert_close(summed[n], expected)


def test_an_interrupted_pretraining_ends_like_another(folder, monkeypatch):
    def run(name):
        arguments = ["--steps", "3", "--singles", "4", "--collages", "2", "--save-every", "1"]
        return pretrain.main(["--data", str(folder), "--out", str(folder / name), *arguments])

    def stop_at_the_second_step(*arguments, step=pretraining.step_losses, done=[]):  # noqa: B006 (counts the calls)
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return step(*arguments)

    assert run("one.safetensors") == 0
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "step_losses", stop_at_the_second_step)
        assert run("two.safetensors") == 130
    assert (folder / "two.checkpoint").exists() and run("two.safetensors") == 0
    one, two = (load_clip(str(folder / f"{name}.safetensors")).state_dict() for name in ("one", "two"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())

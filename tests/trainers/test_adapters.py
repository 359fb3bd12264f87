"""Methods that adapt features or weights, not prompts, against their papers' formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from loops import (
    TARGETS,
    close,
    computed,
    cosines,
    cross_entropy,
    hand_written,
    image_tokens,
    names_of,
    normalise,
    texts,
)

from dassl.utils import read_image
from sotglp import load_clip
from sotglp.toolbox.trainer import CLIPTrainer
from trainers import linearprobe

pytest_plugins = ["loops"]


def features_of(trainer, items):
    """Image features (n, D), not normalised, and labels of items as the test sees them."""
    transform = trainer.test_loader.dataset.transform
    images = [transform(read_image(item.impath)) for item in items]
    with torch.no_grad():
        tokens = [image_tokens(trainer.model.clip, image)[0] for image in images]
        return torch.stack(tokens) @ trainer.model.clip.visual.proj, torch.tensor([item.label for item in items])


@torch.no_grad()
@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
def test_tip_adapter(build, name):
    trainer, images = build(name, ALPHA=1.5, BETA=3.0)
    clip, keys = trainer.model.clip, trainer.model.learned.keys
    scores = 100 * cosines(clip, images, hand_written(trainer))
    for b, image in enumerate(images):
        feature = normalise(image_tokens(clip, image)[0] @ clip.visual.proj)
        for key, item in zip(keys, trainer.dm.dataset.train_x, strict=True):
            affinity = feature @ (key if name == "TipAdapterF" else normalise(key))
            scores[b, item.label] += 1.5 * math.exp(-3.0 * (1 - affinity))
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))


@torch.no_grad()
@pytest.mark.parametrize("name", ["TipAdapter", "GDA"])
def test_patches_keep_their_cosines_with_the_text(build, name):
    """For OOD scores of the patches."""
    trainer, images = build(name)
    trainer.model.local = "value"
    match = trainer.model(images)
    tokens = trainer.model.features(images)[1]
    close(match.s, F.normalize(tokens @ trainer.model.clip.visual.proj, dim=-1) @ trainer.model.text.T)
    assert "L-MCM" in trainer.ood_scores(match)


@torch.no_grad()
def test_the_cache_of_tip_adapter_holds_the_training_images(build):
    trainer, _ = build("TipAdapter")
    trainer.model.learned.keys.zero_()
    trainer.train_loader_x.dataset.transform = trainer.test_loader.dataset.transform
    trainer.run_epoch()
    trainer.run_epoch()
    close(trainer.model.learned.keys, 2 * features_of(trainer, trainer.dm.dataset.train_x)[0])


def hits_of(trainer, images, labels, keys, alpha, beta):
    """How many image features (n, D) Tip-Adapter classifies right with keys that are used as they are."""
    text, count = torch.stack(hand_written(trainer)), 0
    for image, label in zip(images, labels, strict=True):
        scores = 100 * text @ normalise(image)
        for key, item in zip(keys, trainer.dm.dataset.train_x, strict=True):
            scores[item.label] += alpha * math.exp(-beta * (1 - normalise(image) @ key))
        count += (scores.argmax() == label).item()
    return count


@torch.no_grad()
def test_tip_adapter_takes_the_first_best_of_the_grid(build, monkeypatch):
    trainer, _ = build("TipAdapter", ALPHA=0.0, SEARCH_SCALE=[7.0, 30.0], SEARCH_STEP=[5, 4])
    cache = trainer.model.learned
    cache.keys.copy_(torch.randn_like(cache.keys))
    images, labels = torch.randn(40, 64), torch.arange(40) % 4
    monkeypatch.setattr(trainer, "encode_images", lambda batches: (images, labels))
    betas, alphas = [0.1 + 6.9 / 5 * i for i in range(5)], [0.1 + 29.9 / 4 * i for i in range(4)]  # ends left out
    keys = [normalise(key) for key in cache.keys]
    hits = [[hits_of(trainer, images, labels, keys, alpha, beta) for alpha in alphas] for beta in betas]
    assert trainer.search().tolist() == hits
    best = max(map(max, hits))
    assert best > min(map(min, hits))
    first = next((alphas[j], betas[i]) for i, row in enumerate(hits) for j, count in enumerate(row) if count == best)
    close([cache.alpha.item(), cache.beta.item()], first)


@torch.no_grad()
def test_tip_adapter_f_ends_with_the_keys_of_its_best_epoch_on_validation(build, monkeypatch):
    trainer, _ = build("TipAdapterF", ALPHA=30.0, BETA=2.0)
    monkeypatch.setattr(CLIPTrainer, "after_epoch", lambda trainer: None)
    (images, labels), cache = features_of(trainer, trainer.dm.dataset.val), trainer.model.learned
    epochs = [F.normalize(torch.randn_like(cache.keys), dim=-1) for _ in range(4)]
    hits = [hits_of(trainer, images, labels, keys, 30.0, 2.0) for keys in epochs]
    best = hits.index(max(hits))
    order = [*range(best), *range(best + 1, 4)]
    order.insert(1, best)  # neither the first epoch nor the last
    trainer.max_epoch = 4
    for trainer.epoch, number in enumerate(order):
        cache.keys.copy_(epochs[number])
        trainer.after_epoch()
    assert torch.equal(cache.keys, epochs[best]) and cache.best_hits == max(hits) > min(hits)


@pytest.mark.parametrize("name", ["TipAdapterF", "LinearProbe", "GDA"])
def test_nothing_is_chosen_on_validation_images_that_are_the_tests(build, monkeypatch, name):
    """As on ImageNet."""

    def look(loader):
        raise AssertionError("it looks at them")

    trainer, _ = build(name)
    monkeypatch.setattr(trainer.dm.dataset, "_val", trainer.dm.dataset.test)
    assert not trainer.validates
    monkeypatch.setattr(trainer, "encoded", look)
    monkeypatch.setattr(CLIPTrainer, "after_epoch", lambda trainer: None)
    trainer.max_epoch = 1
    if name in ("LinearProbe", "GDA"):
        trainer.run_epoch()
    trainer.after_epoch()


def test_linear_probe_is_the_minimum_of_its_loss(build):
    trainer, images = build("LinearProbe", DECAY=2.0)
    trainer.validates = False
    trainer.run_epoch()
    layer = trainer.model.learned
    features, labels = features_of(trainer, trainer.dm.dataset.train_x)
    weight, bias = (part.detach().double().requires_grad_() for part in (layer.weight, layer.bias))
    loss = F.cross_entropy(features.double() @ weight.T + bias, labels, reduction="sum") + weight.square().sum()
    assert max(g.abs().max() for g in torch.autograd.grad(loss, (weight, bias))) < 1e-2 * loss.detach()
    with torch.no_grad():
        for image, row in zip(images, computed(trainer, images)[1], strict=True):
            feature = image_tokens(trainer.model.clip, image)[0] @ trainer.model.clip.visual.proj
            close(row, [layer.weight[c] @ feature + layer.bias[c] for c in range(4)])


def test_linear_probe_takes_the_decay_that_is_best_on_validation(build):
    trainer, _ = build("LinearProbe")
    trainer.run_epoch()
    train, val = (features_of(trainer, items) for items in (trainer.dm.dataset.train_x, trainer.dm.dataset.val))
    predicted = (val[0] @ trainer.model.learned.weight.T + trainer.model.learned.bias).argmax(dim=1)
    of_decays = [linearprobe.fit(*train, 10.0**power).score(*val) for power in range(-6, 7, 2)]
    assert (predicted == val[1]).float().mean().item() >= max(of_decays) - 1e-6 > min(of_decays)


@torch.no_grad()
def test_cliplora(build, weights):
    trainer, images = build("CLIPLoRA", RANK=3, ALPHA=2.0, DROPOUT=0.5)
    clip = load_clip(weights)  # into which the low-rank products are merged
    blocks = [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]
    for block, maps in zip(blocks, trainer.model.learned, strict=True):
        for part, name in enumerate("qkv"):
            rows = slice(64 * part, 64 * (part + 1))
            block.attn.in_proj_weight[rows] += 2.0 / math.sqrt(3) * maps[name][2].weight @ maps[name][1].weight
    text = texts(clip, [clip.token_embedding.weight[:0]] * 4, [f"a photo of a {name}." for name in names_of(trainer)])
    scores = 100 * cosines(clip, images, text)
    dropped = [computed(trainer, images)[1], trainer.scores(trainer.model(images))]
    assert not torch.allclose(*dropped)
    trainer.set_model_mode("eval")
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))


def test_cliplora_starts_as_zero_shot_clip_and_trains_nothing_of_it(build, weights):
    trainer, images = build("CLIPLoRA")
    for maps in trainer.model.learned:
        for lowrank in maps.values():
            lowrank[2].weight.data.zero_()
    text = trainer.model.encode_text()
    match = trainer.model(images, text)
    clip = load_clip(weights)
    words = texts(clip, [clip.token_embedding.weight[:0]] * 4, [f"a photo of a {name}." for name in names_of(trainer)])
    close(trainer.scores(match).detach(), 100 * cosines(clip, images, words))
    sum(trainer.losses(match, TARGETS, text).values()).backward()
    learned = {id(parameter) for parameter in trainer.model.learned.parameters()}
    moved = {id(parameter) for parameter in trainer.model.parameters() if parameter.grad is not None}
    assert moved == learned

"""Methods that learn a classifier on image features, against slow readings of their papers' formulas."""

import math

import torch
from loops import close, computed, cosines, hand_written, image_tokens, normalise
from test_adapters import features_of

pytest_plugins = ["loops"]


def unit_features(clip, images):
    return [normalise(image_tokens(clip, image)[0] @ clip.visual.proj) for image in images]


@torch.no_grad()
def test_gda(build):
    """Every sum of the paper's estimate written out, on images that are not augmented."""
    trainer, images = build("GDA", VIEWS=2, ALPHA=0.7, LOGIT_SCALE=20.0)
    trainer.train_loader_x.dataset.transform = trainer.test_loader.dataset.transform
    trainer.validates = False
    trainer.run_epoch()
    features, labels = features_of(trainer, trainer.dm.dataset.train_x)
    rows = [(normalise(x).double(), c) for x, c in zip(features, labels.tolist(), strict=True)] * 2
    by_class = [[x for x, c in rows if c == k] for k in range(4)]
    means = [sum(members) / len(members) for members in by_class]
    cov = sum(torch.outer(x - means[c], x - means[c]) for x, c in rows) / (len(rows) - 1)
    precision = 64 * torch.linalg.inv((len(rows) - 1) * cov + sum(cov.diagonal()) * torch.eye(64))
    scores = 20 * cosines(trainer.model.clip, images, hand_written(trainer))
    for row, x in zip(scores, unit_features(trainer.model.clip, images), strict=True):
        for c, mean in enumerate(means):
            row[c] += 0.7 * (x.double() @ precision @ mean + math.log(1 / 4) - mean @ precision @ mean / 2)
    close(computed(trainer, images)[1] / scores.abs().max(), scores / scores.abs().max())


@torch.no_grad()
def test_gda_takes_the_first_best_alpha(build, monkeypatch):
    trainer, _ = build("GDA", ALPHAS=[0.0, 1.0, 2.0, 3.0])
    trainer.model.learned.weight.zero_()
    trainer.model.learned.bias.copy_(torch.tensor([0.0, 2.0, 0.0, 0.0]))
    zero_shot = torch.tensor([[3.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    monkeypatch.setattr(trainer, "validation", (torch.zeros(3, 64), zero_shot, torch.tensor([1, 1, 0])))
    assert trainer.search().tolist() == [1, 1, 3, 3] and trainer.model.learned.alpha == 2


@torch.no_grad()
def test_views_do_not_depend_on_where_the_random_state_is(build):
    trainer, _ = build("GDA")
    first, labels = trainer.encode_views(2)
    torch.rand(1)
    second, _ = trainer.encode_views(2)
    assert torch.equal(first, second) and not torch.equal(*first.chunk(2)) and torch.equal(*labels.chunk(2))

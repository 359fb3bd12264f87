"""Methods that learn a classifier on image features, against slow readings of their papers' formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from loops import (
    close,
    computed,
    cosines,
    cross_entropy,
    hand_written,
    image_tokens,
    names_of,
    normalise,
    text_feature,
)
from test_adapters import features_of

from sotglp.toolbox.trainer import CLIPTrainer

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


def zero_shot_probability(trainer, items):
    """Mean probability of the true class, by class, on items as the test sees them."""
    features, labels = features_of(trainer, items)
    text, scale = torch.stack(hand_written(trainer)), trainer.model.clip.logit_scale.exp()
    means = []
    for c in range(4):
        own = [
            (scale * text @ normalise(x)).softmax(dim=0)[c]
            for x, label in zip(features, labels, strict=True)
            if label == c
        ]
        means.append(sum(own) / len(own))
    return means


@pytest.mark.parametrize("constraint", ["l2", "l2_corrected", "l2_constant", "l2_balanced", "none"])
def test_clap(build, monkeypatch, constraint):
    trainer, images = build("CLAP", moved=False, VIEWS=2, CONSTRAINT=constraint)
    trainer.train_loader_x.dataset.transform = trainer.test_loader.dataset.transform
    clip, learned = trainer.model.clip, trainer.model.learned
    empty = clip.token_embedding.weight[:0]
    with torch.no_grad():
        start = [text_feature(clip, empty, f"a photo of a {name}.", scaled=lambda x: x) for name in names_of(trainer)]
        close(learned.weight, torch.stack(start))
        own = zero_shot_probability(trainer, trainer.dm.dataset.train_x)
    trainer.before_train()
    assert len(trainer.train_loader_x.labels) == 2 * len(trainer.dm.dataset.train_x)
    mean = sum(own) / 4
    expected = {"l2": own, "l2_corrected": [x / mean for x in own], "l2_constant": [mean] * 4, "l2_balanced": [1] * 4}
    multipliers = expected.get(constraint, [0] * 4)
    close(learned.multipliers, [float(x) for x in multipliers])
    with torch.no_grad():
        learned.weight.add_(torch.randn_like(learned.weight))
        moved = [
            sum((w - t) ** 2 for w, t in zip(a.tolist(), b.tolist(), strict=True))
            for a, b in zip(learned.weight, start, strict=True)
        ]
        losses, scores = computed(trainer, images)
        slow = clip.logit_scale.exp() * cosines(clip, images, [normalise(w) for w in learned.weight])
    close(scores, slow)
    close(losses["ce"], cross_entropy(slow))
    close(losses["constraint"], sum(m * d for m, d in zip(multipliers, moved, strict=True)) / 4)


def test_multipliers_of_clap_survive_an_interruption(build, monkeypatch):
    """A run that goes on keeps those of its start, with prototypes that have moved since."""
    trainer, _ = build("CLAP")
    monkeypatch.setattr(CLIPTrainer, "before_train", lambda trainer: None)
    trainer.model.learned.multipliers.fill_(3.0)
    trainer.start_epoch = 1
    trainer.before_train()
    assert (trainer.model.learned.multipliers == 3).all()


def test_clap_refuses_an_unknown_constraint(build):
    with pytest.raises(ValueError, match="TRAINER.CLAP.CONSTRAINT must be l2, .*, not 'l1'"):
        build("CLAP", CONSTRAINT="l1")


@pytest.mark.parametrize("start, all_gradients", [("sum", True), ("mean", False)])
def test_lp_plus_plus(build, monkeypatch, start, all_gradients):
    """Start, step sizes and twenty-one steps of the paper's formulas, with the gradients written out."""
    optim = {"OPTIM.NAME": "sgd", "OPTIM.LR": 1.0, "OPTIM.WEIGHT_DECAY": 0.0}
    trainer, images = build("LPPP", optim, moved=False, WEIGHTS=start, ALL_GRADIENTS=all_gradients)
    trainer.train_loader_x.dataset.transform = trainer.test_loader.dataset.transform
    trainer.validates, trainer.max_epoch = False, 21
    bias = trainer.model.learned.bias.detach().double().clone()
    with torch.no_grad():
        features, labels = features_of(trainer, trainer.dm.dataset.train_x)
        x = torch.stack([normalise(feature) for feature in features]).double()
        text = torch.stack(hand_written(trainer)).double()
    own = F.one_hot(labels, 4).double()
    weight, text_cosines = own.T @ x, x @ text.T
    weight = weight if start == "sum" else weight / own.sum(dim=0)[:, None]
    by_class = [text_cosines[labels == c, c].mean() for c in range(4)]
    alpha = (250 * sum(by_class) / 4).repeat(4)
    step = 4 * len(x) / max(torch.linalg.eigvals(x.T @ x).real)
    alpha_step = len(x) / (4 * max(sum(text_cosines[:, c] ** 2) for c in range(4)))
    speed_w, speed_b, slope = 0, 0, 0
    monkeypatch.setattr(CLIPTrainer, "after_epoch", lambda trainer: None)
    trainer.train()
    for epoch in range(1, 22):
        error = ((x @ weight.T + bias + alpha * text_cosines).softmax(dim=1) - own) / len(x)
        gradient = (error * text_cosines).sum(dim=0)
        slope = slope + gradient if all_gradients else gradient
        speed_w, speed_b = 0.9 * speed_w + error.T @ x, 0.9 * speed_b + error.sum(dim=0)
        weight, bias = weight - step * speed_w, bias - step * speed_b
        alpha = alpha - alpha_step * slope if epoch % 10 == 0 else alpha
    learned = trainer.model.learned
    for ours, slow in ((learned.weight, weight), (learned.bias, bias), (learned.alpha, alpha)):
        close(ours.detach() / slow.abs().max(), slow / slow.abs().max())
    with torch.no_grad():
        unit = torch.stack(unit_features(trainer.model.clip, images)).double()
        close(computed(trainer, images)[1] / 30, (unit @ weight.T + bias + alpha * (unit @ text.T)) / 30)


@torch.no_grad()
def test_lp_plus_plus_takes_the_last_best_epoch_on_validation(build, monkeypatch):
    trainer, _ = build("LPPP")
    learned, trainer.max_epoch = trainer.model.learned, 4
    monkeypatch.setattr(CLIPTrainer, "after_epoch", lambda trainer: None)
    monkeypatch.setattr(trainer, "validation", (torch.zeros(3, 64), torch.zeros(3, 4), torch.tensor([1, 1, 0])))
    biases = torch.eye(4)[[1, 0, 1, 0]]  # right for 2, 1, 2 and 1 images
    biases[2] *= 2
    for trainer.epoch, bias in enumerate(biases):
        learned.bias.copy_(bias)
        trainer.after_epoch()
    assert torch.equal(learned.bias, biases[2]) and learned.best_hits == 2


def test_lp_plus_plus_refuses_an_unknown_start(build):
    with pytest.raises(ValueError, match="TRAINER.LPPP.WEIGHTS must be sum or mean, not 'max'"):
        build("LPPP", WEIGHTS="max")


@torch.no_grad()
def test_two_stages_of_2sfs(build):
    """First the norms count, wherever they are; then a vector of each class in the place of its text."""
    trainer, images = build("TwoSFS")  # whose norms have moved
    clip, learned = trainer.model.clip, trainer.model.learned
    assert len(learned.norms) == 2 * (3 + 3) and clip.transformer.resblocks[0].ln_1 in list(learned.norms)
    slow = clip.logit_scale.exp() * cosines(clip, images, hand_written(trainer))
    losses, scores = computed(trainer, images)
    close(scores, slow)
    close(losses["ce"], cross_entropy(slow))
    trainer.choose_stage(trainer.first_epochs)
    close(learned.classifier, torch.stack(hand_written(trainer)))
    close(computed(trainer, images)[1], slow)
    learned.classifier.add_(torch.randn_like(learned.classifier))
    slow = clip.logit_scale.exp() * cosines(clip, images, [normalise(vector) for vector in learned.classifier])
    close(computed(trainer, images)[1], slow)


def test_a_stage_of_2sfs_learns_its_part(build, monkeypatch):
    trainer, _ = build("TwoSFS", {"OPTIM.MAX_EPOCH": 5, "OPTIM.LR": 0.01})
    states, after = [trainer.model.state_dict()], type(trainer).after_epoch
    monkeypatch.setattr(CLIPTrainer, "after_epoch", lambda trainer: None)

    def keep(trainer):
        states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        after(trainer)

    monkeypatch.setattr(type(trainer), "after_epoch", keep)
    states[0] = {name: value.clone() for name, value in states[0].items()}
    trainer.train()
    changed = [
        {name for name in new if name.startswith("learned.") and not torch.equal(old[name], new[name])}
        for old, new in zip(states, states[1:], strict=False)
    ]
    norms = {name for name in states[0] if name.startswith("learned.norms")}
    assert changed[:3] == [norms] * 3
    assert changed[3] == {"learned.classifier", "learned.second"} and changed[4] == {"learned.classifier"}


def test_without_its_classifier_2sfs_takes_any_classes(build):
    with_classifier, _ = build("TwoSFS")
    trainer, _ = build("TwoSFS", **with_classifier.settings_for_new_classes())
    assert with_classifier.class_specific and not trainer.class_specific
    assert trainer.first_epochs == trainer.cfg.OPTIM.MAX_EPOCH and trainer.model.learned.classifier is None

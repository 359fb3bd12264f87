"""The losses and scores of methods that learn the text's prompts, against their papers' formulas."""

import math
import re

import ot
import pytest
import torch
from loops import (
    IMAGES,
    TARGETS,
    close,
    computed,
    cosines,
    cross_entropy,
    hand_written,
    image_tokens,
    names_of,
    normalise,
    shared,
    text_feature,
    texts,
)

from dassl.config import compose
from dassl.utils import UserError, set_random_seed

pytest_plugins = ["loops"]


@torch.no_grad()
@pytest.mark.parametrize("csc", [False, True])
def test_coop(build, csc):
    trainer, images = build("CoOp", N_CTX=3, CSC=csc)
    clip, context = trainer.model.clip, trainer.model.learned.context
    contexts = [context[c, 0] for c in range(4)] if csc else shared(trainer, trainer.model.learned)
    text = texts(clip, contexts, [f"{name}." for name in names_of(trainer)])
    scores = clip.logit_scale.exp() * cosines(clip, images, text)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))


@torch.no_grad()
def test_cocoop(build):
    trainer, images = build("CoCoOp")
    clip, learned = trainer.model.clip, trainer.model.learned
    scores = []
    for image in images:
        feature = normalise(image_tokens(clip, image)[0] @ clip.visual.proj)
        hidden = learned["meta_net"][0].weight @ feature + learned["meta_net"][0].bias
        shift = learned["meta_net"][2].weight @ hidden.clamp(min=0) + learned["meta_net"][2].bias
        contexts = [learned["prompts"].context[0] + shift] * 4
        text = texts(clip, contexts, [f"{name}." for name in names_of(trainer)])
        scores.append(clip.logit_scale.exp() * cosines(clip, [image], text)[0])
    losses, ours = computed(trainer, images)
    close(ours, torch.stack(scores))
    close(losses["ce"], cross_entropy(torch.stack(scores)))


@torch.no_grad()
def test_kgcoop(build):
    trainer, images = build("KgCoOp", W=3.0)
    clip = trainer.model.clip
    text = texts(clip, shared(trainer, trainer.model.learned), [f"{name}." for name in names_of(trainer)])
    distance = sum(
        sum((a - b) ** 2 for a, b in zip(learned.tolist(), fixed.tolist(), strict=True))
        for learned, fixed in zip(text, hand_written(trainer), strict=True)
    )
    scores = clip.logit_scale.exp() * cosines(clip, images, text)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))
    close(losses["kg"], 3.0 * distance / 4)


@pytest.mark.parametrize("conflict", [True, False])
def test_prograd(build, conflict):
    trainer, images = build("ProGrad", N_CTX=3, LAMBDA=0.5)
    clip, prompts = trainer.model.clip, trainer.model.learned
    names = [f"{name}." for name in names_of(trainer)]
    with torch.no_grad():
        features = [normalise(image_tokens(clip, image)[0] @ clip.visual.proj) for image in images]
        zero_shot = clip.logit_scale.exp() * cosines(clip, images, hand_written(trainer))
    targets = zero_shot.argmin(dim=1) if conflict else zero_shot.argmax(dim=1)
    context = prompts.context.detach().clone().requires_grad_()
    text = [text_feature(clip, context[0], name) for name in names]
    scores = clip.logit_scale.exp() * torch.stack([torch.stack([f @ t for t in text]) for f in features])
    log_p, log_q = scores.log_softmax(dim=1), zero_shot.log_softmax(dim=1)
    ce = -sum(log_p[i, t] for i, t in enumerate(targets)) / IMAGES
    kl = (log_q.exp() * (log_q - log_p)).sum() / IMAGES
    learned_text = trainer.model.encode_text()
    match = trainer.model(images, learned_text)
    losses = trainer.losses(match, targets, learned_text)
    close(trainer.scores(match).detach(), scores.detach())
    close([losses["ce"].item(), losses["kl"].item()], [ce.item(), kl.item()])

    descent, guide = (torch.autograd.grad(loss, context, retain_graph=True)[0] for loss in (ce, kl))
    along = (descent * guide).sum() / (guide * guide).sum()
    assert (along < 0) == conflict
    expected = descent - 0.5 * along * guide if conflict else descent
    before = prompts.context.detach().clone()
    trainer.optim.param_groups[0]["lr"] = 1.0
    trainer.step(losses)
    weight_decay = trainer.cfg.OPTIM.WEIGHT_DECAY * before
    close(before - prompts.context.detach(), expected + weight_decay)


@torch.no_grad()
def test_plot_with_plans_of_pot(build):
    trainer, images = build("PLOT", N=3, N_CTX=2)
    clip, prompts = trainer.model.clip, trainer.model.learned
    names = [f"{name}." for name in names_of(trainer)]
    text = [texts(clip, shared(trainer, prompts, m), names) for m in range(3)]
    scores = torch.zeros(IMAGES, 4)
    for b, image in enumerate(images):
        tokens = image_tokens(clip, image)[1]
        by_prompt = [cosines(clip, None, text[m], tokens) for m in range(3)]  # (P, C) each
        for c in range(4):
            s = torch.stack([by_prompt[m][:, c] for m in range(3)], dim=1).double().numpy()
            plan = ot.sinkhorn([1 / 16] * 16, [1 / 3] * 3, 1 - s, reg=0.1, method="sinkhorn_log", stopThr=1e-12)
            scores[b, c] = 1 - (plan * (1 - s)).sum()  # 1 - the transport distance
    losses, ours = computed(trainer, images)
    close(ours, clip.logit_scale.exp() * scores)
    close(losses["ce"], cross_entropy(clip.logit_scale.exp() * scores))


@torch.no_grad()
def test_locoop(build):
    trainer, images = build("LoCoOp", N_CTX=2, TOPK=2, LAMBDA=0.5)
    clip, scale = trainer.model.clip, trainer.model.clip.logit_scale.exp()
    text = texts(clip, shared(trainer, trainer.model.learned), [f"{name}." for name in names_of(trainer)])
    entropies = []
    for image, target in zip(images, TARGETS.tolist(), strict=True):
        for row in cosines(clip, None, text, image_tokens(clip, image, last_block=lambda t: [t])[1]):
            p = [math.exp(scale * value) for value in row]
            p = [value / sum(p) for value in p]
            if target not in sorted(range(4), key=lambda c: -p[c])[:2]:  # noqa: B023 (used at once)
                entropies.append(-sum(value * math.log(value) for value in p))
    assert 0 < len(entropies) < IMAGES * 16
    scores = scale * cosines(clip, images, text)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))
    close(losses["ood"], -0.5 * sum(entropies) / len(entropies))


def test_locoop_without_nuisances_has_no_entropy(build):
    trainer, images = build("LoCoOp", TOPK=4)
    assert computed(trainer, images)[0]["ood"] == 0


@torch.no_grad()
def test_gallop(build):
    trainer, images = build("GalLoP", N_GLOBAL=4, N_LOCAL=2, TOPK=3, PROMPT_DROPOUT=0.5)
    clip, learned, scale = trainer.model.clip, trainer.model.learned, trainer.model.clip.logit_scale.exp()
    names = names_of(trainer)
    t_global = [texts(clip, shared(trainer, learned["global_prompts"], m), names) for m in range(4)]
    t_local = [texts(clip, shared(trainer, learned["local_prompts"], m), names) for m in range(2)]
    g = [cosines(clip, images, text) for text in t_global]  # G times (B, C)
    l = [torch.zeros(IMAGES, 4) for _ in range(2)]  # noqa: E741
    for b, image in enumerate(images):
        tokens = image_tokens(clip, image, last_block=lambda t: [t])[1] @ learned["projection"].weight.T
        for n, k in enumerate((3, 6)):
            s = cosines(clip, None, t_local[n], tokens)
            for c in range(4):
                l[n][b, c] = sum(sorted(s[:, c].tolist(), reverse=True)[:k]) / k
    losses, ours = computed(trainer, images)
    close(ours, scale * (sum(g) / 4 + sum(l) / 2) / 2)
    close(losses["local"], sum(cross_entropy(scale * l[n]) for n in range(2)) / 2)
    set_random_seed(7)
    drawn = torch.randint(4, (IMAGES, 2)).tolist()
    total = 0.0
    for b, target in enumerate(TARGETS.tolist()):
        for m in drawn[b]:
            row = scale * g[m][b]
            total -= row.log_softmax(dim=0)[target].item() / (2 * IMAGES)
    close(losses["global"], total)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("MaPLe", {"DEPTH": 4}, "TRAINER.MAPLE.DEPTH must be 1 to 3"),
        ("PromptSRC", {"DEPTH": 3, "N_CTX": 5}, "fewer than N_CTX 5"),
        ("TCP", {"BLOCK": 3}, "TRAINER.TCP.BLOCK must be 0 to 2"),
        ("GalLoP", {"TOPK": 5}, "4 scales of 5 patches each are not within the 16"),
        ("LoCoOp", {"TOPK": 5}, "TOPK must be 1 to 4 classes, or 0 for a fifth: 5"),
        ("ProGrad", {"PREC": "amp"}, "PREC must be fp32"),
    ],
)
def test_impossible_settings_are_refused(build, name, settings, message):
    with pytest.raises(ValueError, match=message):
        build(name, **settings)


@pytest.mark.parametrize(
    "name, key, value, interval",
    [
        ("PromptSRC", "GPA_STD", 0.0, "(0, inf)"),
        ("CLIPLoRA", "RANK", 0, "[1, inf)"),
        ("CLIPLoRA", "DROPOUT", 1.0, "[0, 1)"),
        ("GalLoP", "N_LOCAL", 0, "[1, inf)"),
        ("SOTGLP", "EPS", 0.0, "(0, inf)"),
        ("PLOT", "EPS", 0.0, "(0, inf)"),
        ("LinearProbe", "DECAY", 0.0, "(0, inf)"),
        ("CoOp", "N_CTX", 0, "[1, inf)"),
        ("TipAdapterF", "VIEWS", 0, "[1, inf)"),
    ],
)
def test_a_method_refuses_numbers_outside_its_ranges(name, key, value, interval):
    """Before any data or weights are read."""
    with pytest.raises(UserError, match=re.escape(f"{name.upper()}.{key} must be in {interval}, got {value}")):
        compose(values={"TRAINER.NAME": name, f"TRAINER.{name.upper()}.{key}": value})

"""The losses and scores of methods that learn the text's prompts, against their papers' formulas."""

import math
import re

import open_clip
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
        1 - sum(a * b for a, b in zip(learned.tolist(), fixed.tolist(), strict=True))
        for learned, fixed in zip(text, hand_written(trainer), strict=True)
    )
    scores = clip.logit_scale.exp() * cosines(clip, images, text)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))
    close(losses["kg"], 3.0 * distance / 4)


@pytest.mark.parametrize("conflict", [True, False])
def test_prograd(build, conflict):
    trainer, images = build("ProGrad", N_CTX=3, LAMBDA=0.5, T=2.0)
    clip, prompts = trainer.model.clip, trainer.model.learned
    names = [f"a {name}." for name in names_of(trainer)]  # the fourth of "a photo of a" stays fixed
    with torch.no_grad():
        features = [normalise(image_tokens(clip, image)[0] @ clip.visual.proj) for image in images]
        zero_shot = clip.logit_scale.exp() * cosines(clip, images, hand_written(trainer))
    targets = zero_shot.argmin(dim=1) if conflict else zero_shot.argmax(dim=1)
    context = prompts.context.detach().clone().requires_grad_()
    text = [text_feature(clip, context[0], name) for name in names]
    scores = clip.logit_scale.exp() * torch.stack([torch.stack([f @ t for t in text]) for f in features])
    ce = -sum(scores[i].log_softmax(dim=0)[t] for i, t in enumerate(targets)) / IMAGES
    log_p, q = (scores / 2).log_softmax(dim=1), (zero_shot / 2).softmax(dim=1)
    guide_loss = -(2**2) * (q * log_p).sum() / IMAGES  # KL but for the entropy of q, which has no gradient
    learned_text = trainer.model.encode_text()
    match = trainer.model(images, learned_text)
    losses = trainer.losses(match, targets, learned_text)
    close(trainer.scores(match).detach(), scores.detach())
    close([losses["ce"].item(), losses["kl"].item()], [ce.item(), guide_loss.item()])

    descent, guide = (torch.autograd.grad(loss, context, retain_graph=True)[0] for loss in (ce, guide_loss))
    along = (descent * guide).sum() / (guide * guide).sum()
    assert (along < 0) == conflict
    expected = descent - 0.5 * along * guide if conflict else descent
    before = prompts.context.detach().clone()
    trainer.optim.param_groups[0]["lr"] = 1.0
    trainer.step(losses)
    weight_decay = trainer.cfg.OPTIM.WEIGHT_DECAY * before
    close(before - prompts.context.detach(), expected + weight_decay)


@torch.no_grad()
@pytest.mark.parametrize("n_ctx", [3, 6])
def test_prograd_starts_as_the_words_of_its_template(build, n_ctx):
    """The words stand at the context's end, behind zeros; those beyond it stay fixed."""
    trainer, _ = build("ProGrad", moved=False, N_CTX=n_ctx)
    clip, words = trainer.model.clip, open_clip.tokenize(["a photo of a"])[0, 1:5][:n_ctx]
    expected = torch.cat([torch.zeros(n_ctx - len(words), 64), clip.token_embedding.weight[words]])
    close(trainer.model.learned.context[0], expected)
    names = [f"{'a ' * (n_ctx == 3)}{name}." for name in names_of(trainer)]
    close(trainer.model.encode_text()[:, 0], torch.stack(texts(clip, [expected] * 4, names)))


@torch.no_grad()
@pytest.mark.parametrize("pooled", [False, True])
def test_plot_with_plans_of_pot(build, pooled):
    trainer, images = build("PLOT", N=3, N_CTX=2, THRESHOLD=0.0, MAX_ITER=1000)
    assert not trainer.model.pooled  # as on every data set but ImageNet
    trainer.model.pooled = pooled
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
    if pooled:
        raw = [[text_feature(clip, prompts.context[m], name, scaled=lambda x: x) for m in range(3)] for name in names]
        scores += cosines(clip, images, [normalise(sum(of_class) / 3) for of_class in raw])
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
                entropies.append(-sum(value * math.log(value + 1e-5) for value in p))
    assert 0 < len(entropies) < IMAGES * 16
    scores = scale * cosines(clip, images, text)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))
    close(losses["ood"], -0.5 * sum(entropies) / len(entropies))


@torch.no_grad()
def test_locoop_divides_logits_by_100_for_its_scores(build):
    trainer, images = build("LoCoOp", N_CTX=2)
    match = trainer.model(images)
    scores = trainer.ood_scores(match, tau=0.5)
    for b, cosine in enumerate(trainer.scores(match) / trainer.model.logit_scale):
        shares = (trainer.model.clip.logit_scale.exp() * cosine / 100 / 0.5).softmax(dim=0)
        close(scores["MCM"][b], -shares.max())
        patches = (trainer.model.clip.logit_scale.exp() * match.s[b] / 100 / 0.5).softmax(dim=1)
        close(scores["GL-MCM"][b], -shares.max() - patches.max())


def test_locoop_without_nuisances_has_no_entropy(build):
    trainer, images = build("LoCoOp", TOPK=4)
    assert computed(trainer, images)[0]["ood"] == 0


@torch.no_grad()
def test_gallop(build):
    trainer, images = build("GalLoP", N_GLOBAL=4, TOPK=[3, 20], PROMPT_DROPOUT=0.5)
    clip, learned, scale = trainer.model.clip, trainer.model.learned, trainer.model.clip.logit_scale.exp()
    names = names_of(trainer)
    t_global = [texts(clip, shared(trainer, learned["global_prompts"], m), names) for m in range(4)]
    t_local = [texts(clip, shared(trainer, learned["local_prompts"], m), names) for m in range(2)]
    g = [cosines(clip, images, text) for text in t_global]  # G times (B, C)
    l = [torch.zeros(IMAGES, 4) for _ in range(2)]  # noqa: E741
    for b, image in enumerate(images):
        tokens = image_tokens(clip, image, last_block=lambda t: [t])[1] @ learned["projection"].weight.T
        for n, k in enumerate((3, 16)):  # of 20 patches an image has 16
            s = cosines(clip, None, t_local[n], tokens)
            for c in range(4):
                l[n][b, c] = sum(sorted(s[:, c].tolist(), reverse=True)[:k]) / k
    losses, ours = computed(trainer, images)
    close(ours, scale * (sum(g) / 4 + sum(l) / 2) / 2)
    close(losses["local"], sum(cross_entropy(scale * l[n]) for n in range(2)) / 2)
    set_random_seed(7)
    drawn = torch.randint(4, (IMAGES, 2)).tolist()
    kept = torch.stack([(g[first][b] + g[second][b]) / 2 for b, (first, second) in enumerate(drawn)])
    close(losses["global"], cross_entropy(scale * kept))


def test_gallop_s_prompts_start_equal(build):
    trainer, _ = build("GalLoP", moved=False)
    for name in ("global_prompts", "local_prompts"):
        first, *others = trainer.model.learned[name].context
        assert len(others) == 3 and all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("MaPLe", {"PROMPT_DEPTH": 4}, "TRAINER.MAPLE.PROMPT_DEPTH must be 1 to 3"),
        ("PromptSRC", {"PROMPT_DEPTH_TEXT": 4}, "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT must be 1 to 3"),
        ("PromptSRC", {"PROMPT_DEPTH_TEXT": 3}, "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION must be 1 to 3"),
        ("MaPLe", {"PROMPT_DEPTH": 3, "N_CTX": 5}, "fewer than N_CTX 5"),
        ("TCP", {"BLOCK": 3}, "TRAINER.TCP.BLOCK must be 0 to 2"),
        ("GalLoP", {"TOPK": []}, "TRAINER.GALLOP.TOPK needs a number of patches from 1"),
        ("GalLoP", {"TOPK": [5, 0]}, "TRAINER.GALLOP.TOPK needs a number of patches from 1"),
        ("LoCoOp", {"TOPK": 5}, "TOPK must be 1 to 4 classes, or 0 for a fifth: 5"),
        ("ProGrad", {"PREC": "half"}, "fp32, amp, fp16, bf16"),
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
        ("GalLoP", "N_GLOBAL", 0, "[1, inf)"),
        ("PLOTPP", "M", 0, "[1, inf)"),
        ("TipAdapter", "LOGIT_SCALE", -1.0, "[0, inf)"),
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

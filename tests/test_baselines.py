"""The losses and scores of the baselines against their papers' formulas, written out with loops on a tiny CLIP.

Nothing here calls the towers, prompts or matching of the library: only weights are read.
"""

import math

import open_clip
import ot
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dassl.config import get_cfg_default, merge_pairs
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import read_image, set_random_seed
from sotglp import load_clip
from sotglp.clip import CLIP, PIXEL_MEAN, PIXEL_STD
from sotglp.templates import ENSEMBLE
from sotglp.trainer import CLIPTrainer
from trainers import linearprobe, tipadapter

IMAGES, TARGETS = 5, torch.tensor([0, 1, 2, 3, 1])


def normalise(x):
    return x / (x * x).sum().sqrt()


def attention(block, x, visible):
    """Attention of one sequence (L, W), head by head, token by token; `visible(t)` are the tokens that t looks at."""
    width = 64
    q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    rows = []
    for t in range(len(x)):
        heads = []
        for part in (slice(i, i + width) for i in range(0, x.shape[1], width)):
            seen = visible(t)
            weights = torch.softmax(k[seen, part] @ q[t, part] / math.sqrt(width), dim=0)
            heads.append(weights @ v[seen, part])
        rows.append(torch.cat(heads))
    return block.attn.out_proj(torch.stack(rows))


def run_block(block, x, visible):
    x = x + attention(block, x, visible)
    h = block.mlp.c_fc(block.ln_2(x))
    return x + block.mlp.c_proj(h * torch.sigmoid(1.702 * h))


def text_feature(clip, context, name, deep=None):
    """The normalised feature of "[SOT] context name [EOT]", context (T, W) given as embeddings.

    deep: {block: tokens (T, W)} that replace the context before a block.
    """
    ids = open_clip.tokenize([name])[0]
    ids = ids[: ids.argmax() + 1]
    embedded = clip.token_embedding.weight[ids]
    x = torch.cat([embedded[:1], context, embedded[1:]])
    x = x + clip.positional_embedding[: len(x)]
    for i, block in enumerate(clip.transformer.resblocks):
        for t, token in enumerate((deep or {}).get(i, ())):
            x = torch.cat([x[: 1 + t], token[None], x[2 + t :]])
        x = run_block(block, x, lambda t: list(range(t + 1)))
    return normalise(clip.ln_final(x[-1]) @ clip.text_projection)


def image_tokens(clip, image, last_block=None, prompts=()):
    """Class token and patch tokens (P, W) after ln_post; `last_block(t)` is what tokens see in the last block.

    prompts: tokens (T, W) that stand after the patches in the first, the second, ... block.
    """
    visual = clip.visual
    patches = F.conv2d(image[None], visual.conv1.weight, stride=8)[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, *prompts[:1]]))
    everything = list(range(len(x)))
    *blocks, last = visual.transformer.resblocks
    for i, block in enumerate(blocks):
        x = torch.cat([x[:17], prompts[i]]) if 0 < i < len(prompts) else x
        x = run_block(block, x, lambda t: everything)
    x = torch.cat([x[:17], prompts[-1]]) if len(prompts) > len(blocks) else x
    whole = run_block(last, x, lambda t: everything)
    local = whole if last_block is None else run_block(last, x, last_block)
    return visual.ln_post(whole[0]), visual.ln_post(local[1:])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    clip = CLIP(64, 32, 8, 64, 3, 64, 3)
    path = tmp_path_factory.mktemp("clip") / "tiny.safetensors"
    save_file(clip.state_dict(), path)
    return str(path)


@pytest.fixture
def build(weights, tiny_values):
    """Function (trainer, its settings) -> (trainer, images); class names of two lengths come from the squares."""

    def make(name, **settings):
        cfg = get_cfg_default()
        TRAINER_REGISTRY.extend_cfg(cfg)
        pixels = {"SIZE": (32, 32), "PIXEL_MEAN": list(PIXEL_MEAN), "PIXEL_STD": list(PIXEL_STD)}
        values = {f"INPUT.{key}": value for key, value in pixels.items()} | {"MODEL.BACKBONE.NAME": weights}
        settings = {f"TRAINER.{name.upper()}.{key}": value for key, value in {"PREC": "fp32", **settings}.items()}
        merge_pairs(cfg, {**tiny_values, **values, **settings, "TRAINER.NAME": name, "DATASET.NUM_SHOTS": 2})
        set_random_seed(1)
        trainer = build_trainer(cfg)
        with torch.no_grad():  # away from where it starts, so that every part counts
            for parameter in trainer.model.learned.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return trainer, torch.randn(IMAGES, 3, 32, 32)

    return make


def computed(trainer, images):
    """The trainer's losses as floats and its scores."""
    text = trainer.model.encode_text()
    match = trainer.model(images, text)
    set_random_seed(7)
    losses = trainer.losses(match, TARGETS, text)
    return {name: loss.item() for name, loss in losses.items()}, trainer.scores(match)


def names_of(trainer):
    return [trainer.lab2cname[label] for label in sorted(trainer.lab2cname)]


def cross_entropy(scores):
    """Mean over images of -log softmax at the target, by sums of exponentials."""
    total = 0.0
    for row, target in zip(scores.tolist(), TARGETS.tolist(), strict=True):
        total += math.log(sum(math.exp(value) for value in row)) - row[target]
    return total / len(TARGETS)


def close(ours, slow):
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(slow), rtol=1e-5, atol=1e-5, check_dtype=False)


@torch.no_grad()
def cosines(clip, images, text, tokens=None):
    """(B, C) cosines of the images, or (P, C) of one image's patch tokens, with normalised text features."""
    features = [image_tokens(clip, image)[0] for image in images] if tokens is None else tokens
    features = [normalise(feature @ clip.visual.proj) for feature in features]
    return torch.tensor(
        [[sum(a * b for a, b in zip(f.tolist(), t.tolist(), strict=True)) for t in text] for f in features]
    )


@torch.no_grad()
def texts(clip, contexts, names):
    return [text_feature(clip, context, name) for context, name in zip(contexts, names, strict=True)]


def shared(trainer, prompts, m=0):
    return [prompts.context[m]] * trainer.num_classes


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
def hand_written(trainer):
    empty = trainer.model.clip.token_embedding.weight[:0]
    return [text_feature(trainer.model.clip, empty, f"a photo of a {name}.") for name in names_of(trainer)]


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


@torch.no_grad()
@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
def test_tip_adapter(build, name):
    trainer, images = build(name, ALPHA=1.5, BETA=3.0)
    clip, keys = trainer.model.clip, trainer.model.learned.keys
    scores = clip.logit_scale.exp() * cosines(clip, images, hand_written(trainer))
    for b, image in enumerate(images):
        feature = normalise(image_tokens(clip, image)[0] @ clip.visual.proj)
        for key, item in zip(keys, trainer.dm.dataset.train_x, strict=True):
            affinity = feature @ (key if name == "TipAdapterF" else normalise(key))
            scores[b, item.label] += 1.5 * math.exp(-3.0 * (1 - affinity))
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))


def features_of(trainer, items):
    """Image features (n, D), not normalised, and labels of items as the test sees them."""
    transform = trainer.test_loader.dataset.transform
    images = [transform(read_image(item.impath)) for item in items]
    with torch.no_grad():
        tokens = [image_tokens(trainer.model.clip, image)[0] for image in images]
        return torch.stack(tokens) @ trainer.model.clip.visual.proj, torch.tensor([item.label for item in items])


@torch.no_grad()
def test_the_cache_of_tip_adapter_holds_the_training_images(build):
    trainer, _ = build("TipAdapter")
    trainer.model.learned.keys.zero_()
    trainer.train_loader_x.dataset.transform = trainer.test_loader.dataset.transform
    trainer.run_epoch()
    trainer.run_epoch()
    close(trainer.model.learned.keys, 2 * features_of(trainer, trainer.dm.dataset.train_x)[0])


@torch.no_grad()
def test_tip_adapter_finds_the_best_of_the_grid(build, monkeypatch):
    monkeypatch.setattr(tipadapter, "STEPS", {"beta": 5, "alpha": 4})
    trainer, _ = build("TipAdapter", ALPHA=0.0)
    cache, scale = trainer.model.learned, trainer.model.logit_scale
    images, labels, text = torch.randn(40, 64), torch.arange(40) % 4, torch.stack(hand_written(trainer))
    cache.keys.copy_(torch.randn_like(cache.keys))
    monkeypatch.setattr(trainer, "encode_images", lambda batches: (images, labels))

    def hits(alpha, beta):
        count = 0
        for image, label in zip(images, labels, strict=True):
            scores = scale * text @ normalise(image)
            for key, item in zip(cache.keys, trainer.dm.dataset.train_x, strict=True):
                scores[item.label] += alpha * math.exp(-beta * (1 - normalise(image) @ normalise(key)))
            count += (scores.argmax() == label).item()
        return count

    alphas, betas = torch.linspace(0.1, 3, 4).tolist(), torch.linspace(0.1, 7, 5).tolist()
    by_pair = {(alpha, beta): hits(alpha, beta) for alpha in alphas for beta in betas}
    trainer.search()
    best = max(by_pair.values())
    assert hits(cache.alpha.item(), cache.beta.item()) == best > min(by_pair.values())


def test_linear_probe_is_the_minimum_of_its_loss(build):
    trainer, images = build("LinearProbe", DECAY=2.0)
    trainer.val_loader = None
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
            block.attn.in_proj_weight[rows] += 2.0 / 3 * maps[name][2].weight @ maps[name][1].weight
    text = texts(clip, [clip.token_embedding.weight[:0]] * 4, [f"a photo of a {name}." for name in names_of(trainer)])
    scores = clip.logit_scale.exp() * cosines(clip, images, text)
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
    close(trainer.scores(match).detach(), clip.logit_scale.exp() * cosines(clip, images, words))
    sum(trainer.losses(match, TARGETS, text).values()).backward()
    learned = {id(parameter) for parameter in trainer.model.learned.parameters()}
    moved = {id(parameter) for parameter in trainer.model.parameters() if parameter.grad is not None}
    assert moved == learned


def prompted_scores(trainer, images, image_prompts):
    """Scores and normalised features of images and text, with the trainer's prompts in both towers."""
    clip, learned = trainer.model.clip, trainer.model.learned
    deep = {1: learned.deep[0], 2: learned.deep[1]}
    context = learned.prompts.context[0]
    text = torch.stack([text_feature(clip, context, f"{name}.", deep) for name in names_of(trainer)])
    tokens = [image_tokens(clip, image, prompts=image_prompts)[0] for image in images]
    features = torch.stack([normalise(token @ clip.visual.proj) for token in tokens])
    return clip.logit_scale.exp() * features @ text.T, features, text


@torch.no_grad()
def test_maple(build):
    trainer, images = build("MaPLe", DEPTH=3)
    learned = trainer.model.learned
    text_prompts = [learned.prompts.context[0], learned.deep[0], learned.deep[1]]
    assert all(prompts.shape == (2, 64) for prompts in text_prompts)
    image_prompts = [
        torch.stack([coupling.weight @ token + coupling.bias for token in prompts])
        for coupling, prompts in zip(learned.couplings, text_prompts, strict=True)
    ]
    scores, _, _ = prompted_scores(trainer, images, image_prompts)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))


@torch.no_grad()
def test_promptsrc(build):
    trainer, images = build("PromptSRC", DEPTH=3, N_CTX=3, TEXT_WEIGHT=2.0, IMAGE_WEIGHT=3.0)
    clip, learned = trainer.model.clip, trainer.model.learned
    scores, features, text = prompted_scores(trainer, images, list(learned.image))
    empty, anchor = clip.token_embedding.weight[:0], []
    for name in names_of(trainer):
        words = [template.format(name) for template in [*ENSEMBLE, "a photo of a {}."]]
        anchor.append(normalise(sum(text_feature(clip, empty, word) for word in words)))
    frozen = [normalise(image_tokens(clip, image)[0] @ clip.visual.proj) for image in images]
    kl = 0.0
    for row, f in zip(scores, frozen, strict=True):
        p, q = (torch.softmax(x, dim=0) for x in (row, clip.logit_scale.exp() * torch.stack([f @ t for t in anchor])))
        kl += sum(b * math.log(b / a) for a, b in zip(p.tolist(), q.tolist(), strict=True)) / IMAGES
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))
    close(losses["text"], 2.0 * sum((a - b).abs().sum() for a, b in zip(text, anchor, strict=True)) / text.numel())
    image = sum((a - b).abs().sum() for a, b in zip(features, frozen, strict=True))
    close(losses["image"], 3.0 * image / features.numel())
    close(losses["kl"], kl)
    trainer.set_model_mode("eval")
    assert trainer.model(images).zero_shot is None  # a test has no use for it
    close(trainer.scores(trainer.model(images)), scores)


@torch.no_grad()
def test_promptsrc_ends_with_the_weighted_mean_of_its_epochs(build, monkeypatch):
    trainer, _ = build("PromptSRC", DEPTH=2, GPA_MEAN=0.5, GPA_STD=0.25)
    monkeypatch.setattr(CLIPTrainer, "after_epoch", lambda trainer: None)
    trainer.max_epoch, after = 4, []
    for trainer.epoch in range(4):
        trainer.model.learned.image.normal_()
        after.append(trainer.model.learned.image.clone())
        trainer.after_epoch()
    densities = [math.exp(-((epoch - 2.0) ** 2) / 2) for epoch in (1, 2, 3, 4)]
    mean = sum(density * prompts for density, prompts in zip(densities, after, strict=True)) / sum(densities)
    close(trainer.model.learned.image, mean)


@torch.no_grad()
@pytest.mark.parametrize("block", [0, 1, 2])
def test_tcp(build, block):
    trainer, images = build("TCP", BLOCK=block, W=3.0)
    clip, learned = trainer.model.clip, trainer.model.learned
    text, distance = [], 0.0
    for name, knowledge in zip(names_of(trainer), hand_written(trainer), strict=True):
        hidden = (learned.embedding[0].weight @ knowledge + learned.embedding[0].bias).clamp(min=0)
        tokens = (learned.embedding[2].weight @ hidden + learned.embedding[2].bias).view(4, 64)
        text.append(text_feature(clip, learned.prompts.context[0], f"{name}.", {block: tokens}))
        distance += (1 - text[-1] @ knowledge).item() / 4
    scores = clip.logit_scale.exp() * cosines(clip, images, text)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))
    close(losses["kg"], 3.0 * distance)


@pytest.mark.parametrize(
    "name, settings", [("MaPLe", {"DEPTH": 3}), ("PromptSRC", {"DEPTH": 2}), ("TCP", {"BLOCK": 1})]
)
def test_gradients_reach_all_prompts_and_nothing_of_clip(build, name, settings):
    trainer, images = build(name, **settings)
    text = trainer.model.encode_text()
    sum(trainer.losses(trainer.model(images, text), TARGETS, text).values()).backward()
    learned = dict(trainer.model.learned.named_parameters())
    unreached = {key for key, parameter in learned.items() if parameter.grad is None or not parameter.grad.any()}
    assert not unreached and all(parameter.grad is None for parameter in trainer.model.clip.parameters())


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("MaPLe", {"DEPTH": 4}, "TRAINER.MAPLE.DEPTH must be 1 to 3"),
        ("PromptSRC", {"DEPTH": 3, "N_CTX": 5}, "fewer than N_CTX 5"),
        ("PromptSRC", {"GPA_STD": 0.0}, "GPA_STD must be positive"),
        ("TCP", {"BLOCK": 3}, "TRAINER.TCP.BLOCK must be 0 to 2"),
        ("CLIPLoRA", {"RANK": 0}, "RANK must be 1 or more and DROPOUT 0 to below 1, got 0 and 0.25"),
        ("GalLoP", {"TOPK": 5}, "4 scales of 5 patches each are not within the 16"),
        ("GalLoP", {"N_LOCAL": 0}, "at least 1 global and 1 local prompt"),
        ("LoCoOp", {"TOPK": 5}, "TOPK must be 1 to 4 classes, or 0 for a fifth: 5"),
        ("PLOT", {"EPS": 0.0}, "eps must be positive"),
        ("ProGrad", {"PREC": "amp"}, "PREC must be fp32"),
    ],
)
def test_impossible_settings_are_told(build, name, settings, message):
    with pytest.raises(ValueError, match=message):
        build(name, **settings)

"""The losses and scores of methods with prompts in both towers or deep in one, against their papers' formulas."""

import math

import pytest
import torch
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
    text_feature,
)

from sotglp.toolbox.trainer import CLIPTrainer
from trainers import promptsrc

pytest_plugins = ["loops"]


def prompted_scores(trainer, images, image_prompts, words=""):
    """Scores and normalised features of images and text, with the trainer's prompts in both towers.

    words: between the learned ones and the class name.
    """
    clip, learned = trainer.model.clip, trainer.model.learned
    deep = {1: learned.deep[0], 2: learned.deep[1]}
    context = learned.prompts.context[0]
    text = torch.stack([text_feature(clip, context, f"{words}{name}.", deep) for name in names_of(trainer)])
    tokens = [image_tokens(clip, image, prompts=image_prompts)[0] for image in images]
    features = torch.stack([normalise(token @ clip.visual.proj) for token in tokens])
    return clip.logit_scale.exp() * features @ text.T, features, text


@torch.no_grad()
def test_maple(build):
    trainer, images = build("MaPLe", PROMPT_DEPTH=3)
    learned = trainer.model.learned
    text_prompts = [learned.prompts.context[0], learned.deep[0], learned.deep[1]]
    assert all(prompts.shape == (2, 64) for prompts in text_prompts)
    image_prompts = [
        torch.stack([coupling.weight @ token + coupling.bias for token in prompts])
        for coupling, prompts in zip(learned.couplings, text_prompts, strict=True)
    ]
    scores, _, _ = prompted_scores(trainer, images, image_prompts, "of a ")  # "a photo" is learned
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))


@torch.no_grad()
def test_promptsrc(build, monkeypatch):
    templates = ["the toy {}.", "art of a {}.", "itap of the {}."]  # the sixty are checked by its reference numbers
    monkeypatch.setattr(promptsrc, "SIXTY", templates)
    depths = dict(PROMPT_DEPTH_TEXT=3, PROMPT_DEPTH_VISION=2, N_CTX_TEXT=3, N_CTX_VISION=1)
    trainer, images = build("PromptSRC", **depths, TEXT_LOSS_WEIGHT=2.0, IMAGE_LOSS_WEIGHT=3.0)
    clip, learned = trainer.model.clip, trainer.model.learned
    assert learned.image.shape == (2, 1, 64)
    scores, features, text = prompted_scores(trainer, images, list(learned.image), "a ")
    empty, anchor = clip.token_embedding.weight[:0], []
    for name in names_of(trainer):
        raw = [text_feature(clip, empty, template.format(name), scaled=lambda x: x) for template in templates]
        anchor.append(normalise(sum(raw)))
    frozen = [normalise(image_tokens(clip, image)[0] @ clip.visual.proj) for image in images]
    kl = 0.0
    for row, f in zip(scores, frozen, strict=True):
        p, q = (torch.softmax(x, dim=0) for x in (row, clip.logit_scale.exp() * torch.stack([f @ t for t in anchor])))
        kl += sum(b * math.log(b / a) for a, b in zip(p.tolist(), q.tolist(), strict=True)) / scores.numel()
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
    trainer, _ = build("PromptSRC", PROMPT_DEPTH_TEXT=2, PROMPT_DEPTH_VISION=2, GPA_MEAN=2.0, GPA_STD=1.5)
    monkeypatch.setattr(CLIPTrainer, "after_epoch", lambda trainer: None)
    trainer.max_epoch, after = 4, []
    for trainer.epoch in range(4):
        trainer.model.learned.image.normal_()
        after.append(trainer.model.learned.image.clone())
        trainer.after_epoch()
    densities = [math.exp(-((epoch - 2.0) ** 2) / (2 * 1.5**2)) for epoch in (1, 2, 3, 4)]
    mean = sum(density * prompts for density, prompts in zip(densities, after, strict=True)) / sum(densities)
    close(trainer.model.learned.image, mean)


@torch.no_grad()
@pytest.mark.parametrize("block, n_ctx", [(0, 4), (1, 6), (2, 2)])
def test_tcp(build, block, n_ctx):
    trainer, images = build("TCP", BLOCK=block, W=3.0, N_CTX=n_ctx)
    clip, learned = trainer.model.clip, trainer.model.learned
    text, distance = [], 0.0
    for name, knowledge in zip(names_of(trainer), hand_written(trainer), strict=True):
        hidden = learned.embedding[0].weight @ knowledge + learned.embedding[0].bias
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        tokens = (learned.embedding[2].weight @ hidden + learned.embedding[2].bias).view(4, 64)  # four for any context
        text.append(text_feature(clip, learned.prompts.context[0], f"{name}.", {block: tokens}))
        distance += (1 - text[-1] @ knowledge).item() / 4
    scores = clip.logit_scale.exp() * cosines(clip, images, text)
    losses, ours = computed(trainer, images)
    close(ours, scores)
    close(losses["ce"], cross_entropy(scores))
    close(losses["kg"], 3.0 * distance)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("MaPLe", {"PROMPT_DEPTH": 3}),
        ("PromptSRC", {"PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 3}),
        ("TCP", {"BLOCK": 1}),
    ],
)
def test_gradients_reach_all_prompts_and_nothing_of_clip(build, name, settings):
    trainer, images = build(name, **settings)
    text = trainer.model.encode_text()
    sum(trainer.losses(trainer.model(images, text), TARGETS, text).values()).backward()
    learned = dict(trainer.model.learned.named_parameters())
    unreached = {key for key, parameter in learned.items() if parameter.grad is None or not parameter.grad.any()}
    assert not unreached and all(parameter.grad is None for parameter in trainer.model.clip.parameters())

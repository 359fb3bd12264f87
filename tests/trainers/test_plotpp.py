"""PLOT++ against loops over its prompts and images, and its two stages of training."""

import math

import open_clip
import ot
import pytest
import torch
from loops import IMAGES, close, computed, cosines, cross_entropy, image_tokens, names_of, normalise, text_feature
from small_runs import assert_same

from dassl.utils import load_checkpoint, set_random_seed
from trainers import plotpp

pytest_plugins = ["loops"]

WORDS = {  # {words: what stays fixed behind four context tokens, as many as the first has words}
    "a photo of a": "{}.",
    "this is a": ".",  # the context takes the class name's first token, too
    "one picture of a big": "big {}.",
}
SIZES = {"M": 2, "N": 3, "N_CTX_V": 2}
STAGES = {
    **{"OPTIM.MAX_EPOCH": 4, "OPTIM.WARMUP_EPOCH": 0, "DATALOADER.TRAIN_X.BATCH_SIZE": 4, "TEST.NO_TEST": True},
    **{"TRAIN.CHECKPOINT_MINUTES": 1e-9, "TRAIN.CHECKPOINT_FREQ": 1},
}
STEPS = 2  # of an epoch


@pytest.fixture
def words(monkeypatch):
    monkeypatch.setattr(plotpp, "WORDS", {"Caltech101": list(WORDS)})


@torch.no_grad()
@pytest.mark.parametrize("joint", [False, True])
def test_scores_with_plans_of_pot(build, words, joint):
    trainer, images = build("PLOTPP", **SIZES, THRESHOLD=0.0, MAX_ITER=1000)
    clip, learned, scale = trainer.model.clip, trainer.model.learned, trainer.model.clip.logit_scale.exp()
    learned.joint.fill_(joint)
    pairs = list(zip(learned.text, WORDS.values(), strict=True))
    raw = [
        [text_feature(clip, prompts.context[0], fixed.format(name), scaled=lambda x: x) for prompts, fixed in pairs]
        for name in names_of(trainer)
    ]
    scores = torch.zeros(IMAGES, 4)
    for b, image in enumerate(images):
        tokens = torch.stack([image_tokens(clip, image, prompts=[prompt])[0] for prompt in learned.vision])  # (M, W)
        pooled = normalise(tokens.mean(dim=0) @ clip.visual.proj)
        for c in range(4):
            s = cosines(clip, None, [normalise(text) for text in raw[c]], tokens).double().numpy()  # (M, N)
            plan = ot.sinkhorn([1 / 2] * 2, [1 / 3] * 3, 1 - s, reg=0.1, method="sinkhorn_log", stopThr=1e-12)
            scores[b, c] = (plan * s).sum()
            if not joint:
                scores[b, c] += pooled @ normalise(sum(raw[c]) / 3)
    losses, ours = computed(trainer, images)
    close(ours, scale * scores)
    close(losses["ce"], cross_entropy(scale * scores))


def test_contexts_start_as_the_first_tokens_of_the_words(build, words):
    """The EOT stands where words lack."""
    trainer, _ = build("PLOTPP", moved=False, **SIZES)
    for prompts, text in zip(trainer.model.learned.text, WORDS, strict=True):
        ids = open_clip.tokenize([text])[0, 1:5]
        close(prompts.context[0].detach(), trainer.model.clip.token_embedding.weight[ids])


def parameters_of(trainer):
    learned = trainer.model.learned
    return learned.vision.detach().clone(), torch.stack([prompts.context.detach() for prompts in learned.text])


def test_two_stages(build):
    """Vision prompts alone with the pooled score, then all without it; each with its schedule, the second anew."""
    trainer, _ = build("PLOTPP", STAGES, moved=False, **SIZES)
    before, forward_backward = [parameters_of(trainer)], trainer.forward_backward
    rates, pooled, momenta = [], [], []

    def step(batch):
        rates.append(trainer.get_current_lr())
        pooled.append(trainer.model.pooled)
        momenta.append(len(trainer.optim.state))
        summary = forward_backward(batch)
        before.append(parameters_of(trainer))
        return summary

    trainer.forward_backward = step
    trainer.train()
    assert len(rates) == 4 * STEPS
    assert pooled == [True] * 2 * STEPS + [False] * 2 * STEPS
    cosine = [trainer.cfg.OPTIM.LR * (1 + math.cos(math.pi * epoch / 2)) / 2 for epoch in (0, 1)]
    assert rates == pytest.approx([rate for rate in cosine for _ in range(STEPS)] * 2)
    assert momenta == [0, *[1] * (2 * STEPS - 1), 0, *[4] * (2 * STEPS - 1)]  # parameters with a velocity
    for number, (start, end) in enumerate(zip(before, before[1:], strict=False)):
        assert not torch.equal(start[0], end[0])
        assert torch.equal(start[1], end[1]) == (number < 2 * STEPS)


def run(trainer, stop_before=None):
    """Train, up to a step if given; return how many steps were taken and the last checkpoint."""
    forward_backward, steps = trainer.forward_backward, []

    def step(batch):
        if len(steps) == stop_before:
            raise KeyboardInterrupt
        steps.append(batch)
        return forward_backward(batch)

    trainer.forward_backward = step
    if stop_before is not None:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        return len(steps), None
    trainer.train()
    return len(steps), load_checkpoint(f"{trainer.output_dir}/prompt_learner/model.pth.tar-4")


def test_a_run_cut_in_either_stage_or_between_them_ends_as_an_unbroken_one(build, tmp_path):
    def made(name):
        return build("PLOTPP", {**STAGES, "OUTPUT_DIR": str(tmp_path / name)}, moved=False, **SIZES)[0]

    _, whole = run(made("whole"))
    for cut in (STEPS + 1, 2 * STEPS, 2 * STEPS + 1, 3 * STEPS):  # the second is the boundary
        run(made(str(cut)), stop_before=cut)
        resumed = made(str(cut))
        set_random_seed(99)
        steps, end = run(resumed)
        assert steps == 4 * STEPS - cut
        assert_same(end, whole)


def test_one_epoch_has_the_second_stage_alone(build):
    trainer, _ = build("PLOTPP", {**STAGES, "OPTIM.MAX_EPOCH": 1}, moved=False, **SIZES)
    start = parameters_of(trainer)
    trainer.train()
    assert all(not torch.equal(*pair) for pair in zip(start, parameters_of(trainer), strict=True))

"""CLIP-LoRA against the paper's formula, written out with loops on a tiny CLIP, and its way through train.py.

The loops call nothing of the library's towers: only weights are read. The towers differ in width, with several heads.
"""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dassl.config import get_cfg_default, merge_pairs
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import load_checkpoint, set_random_seed
from sotglp import interface, load_clip
from sotglp.clip import CLIP
from sotglp.interface import PIXEL_MEAN, PIXEL_STD
from train import main

IMAGE_WIDTH, TEXT_WIDTH, LAYERS, HEAD = 192, 128, 2, 64
TARGETS = torch.tensor([0, 1, 2, 3, 1])
SETTINGS = {"RANK": 3, "ALPHA": 2.0, "DROPOUT": 0.5}
SCALE = SETTINGS["ALPHA"] / math.sqrt(SETTINGS["RANK"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    clip = CLIP(32, 32, 8, IMAGE_WIDTH, LAYERS, TEXT_WIDTH, LAYERS)
    path = tmp_path_factory.mktemp("clip") / "tiny.safetensors"
    save_file(clip.state_dict(), path)
    return str(path)


@pytest.fixture
def build(weights, tiny_values):
    """Function (other values) -> trainer on the squares, at its start."""

    def make(values=()):
        cfg = get_cfg_default()
        TRAINER_REGISTRY.extend_cfg(cfg)
        pixels = {"SIZE": (32, 32), "PIXEL_MEAN": list(PIXEL_MEAN), "PIXEL_STD": list(PIXEL_STD)}
        pairs = {f"INPUT.{key}": value for key, value in pixels.items()}
        pairs |= {f"TRAINER.CLIPLORA.{key}": value for key, value in SETTINGS.items()}
        pairs |= {"MODEL.BACKBONE.NAME": weights, "TRAINER.NAME": "CLIPLoRA", "DATASET.NUM_SHOTS": 3}
        pairs |= {"OPTIM.NAME": "adamw", "OPTIM.MAX_EPOCH": 2, "OPTIM.WARMUP_EPOCH": 0, "TRAIN.CHECKPOINT_FREQ": 1}
        merge_pairs(cfg, {**tiny_values, **pairs, **dict(values)})
        set_random_seed(1)
        return build_trainer(cfg)

    return make


@pytest.fixture
def moved(build):
    """A trainer whose A and B are away from their start, so that every part counts, in the mode of a test."""
    trainer = build()
    with torch.no_grad():
        for parameter in trainer.model.learned.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    trainer.set_model_mode("eval")
    return trainer


@pytest.fixture
def images():
    return torch.randn(len(TARGETS), 3, 32, 32, generator=torch.Generator().manual_seed(2))


def prompts_of(trainer):
    return [f"a photo of a {trainer.lab2cname[label]}." for label in sorted(trainer.lab2cname)]


def matrices(low_rank):
    """A (r, W) and B (W, r) of a map."""
    down, up = low_rank.parameters()
    return down, up


def normalise(x):
    return x / (x * x).sum().sqrt()


def project(weight, bias, low_rank, token):
    """W x + b + (alpha / sqrt(r)) B A x of one token (W,)."""
    down, up = matrices(low_rank)
    return weight @ token + bias + SCALE * (up @ (down @ token))


def run_block(block, maps, x, visible):
    """A block on one sequence (L, W), token by token and head by head; `visible(t)` is the end of what t looks at."""
    parts = zip(block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), "qkv", strict=True)
    h = block.ln_1(x)
    q, k, v = ([project(weight, bias, maps[name], token) for token in h] for weight, bias, name in parts)
    attended = []
    for t in range(len(x)):
        heads = []
        for head in (slice(i, i + HEAD) for i in range(0, x.shape[1], HEAD)):
            logits = torch.stack([q[t][head] @ k[s][head] / math.sqrt(HEAD) for s in range(visible(t))])
            shares = logits.exp() / logits.exp().sum()
            heads.append(sum(share * v[s][head] for s, share in enumerate(shares)))
        attended.append(block.attn.out_proj.weight @ torch.cat(heads) + block.attn.out_proj.bias)
    x = x + torch.stack(attended)
    h = block.mlp.c_fc(block.ln_2(x))
    return x + block.mlp.c_proj(h * torch.sigmoid(1.702 * h))


def image_feature(clip, learned, image):
    visual = clip.visual
    patches = F.conv2d(image[None], visual.conv1.weight, stride=8)[0].flatten(1).T
    x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding)
    for block, maps in zip(visual.transformer.resblocks, learned[:LAYERS], strict=True):
        x = run_block(block, maps, x, lambda t: 17)
    return normalise(visual.ln_post(x[0]) @ visual.proj)


def text_feature(clip, learned, prompt):
    ids = open_clip.tokenize([prompt])[0]
    ids = ids[: ids.argmax() + 1]
    x = clip.token_embedding.weight[ids] + clip.positional_embedding[: len(ids)]
    for block, maps in zip(clip.transformer.resblocks, learned[LAYERS:], strict=True):
        x = run_block(block, maps, x, lambda t: t + 1)
    return normalise(clip.ln_final(x[-1]) @ clip.text_projection)


def close(ours, slow, tolerance=1e-5):
    torch.testing.assert_close(ours, slow, rtol=tolerance, atol=tolerance)


def test_loss_scores_and_gradients_are_those_of_the_formula(moved, images, weights):
    clip, learned = load_clip(weights), moved.model.learned
    text = [text_feature(clip, learned, prompt) for prompt in prompts_of(moved)]
    features = [image_feature(clip, learned, image) for image in images]
    scores = 100 * torch.stack([torch.stack([f @ t for t in text]) for f in features])
    loss = -sum(row[target] - row.exp().sum().log() for row, target in zip(scores, TARGETS, strict=True)) / len(TARGETS)

    text = moved.model.encode_text()
    match = moved.model(images, text)
    (ours,) = moved.losses(match, TARGETS, text).values()
    close(moved.scores(match) / 100, scores / 100)
    close(ours, loss)
    gradients = [torch.autograd.grad(value, list(learned.parameters())) for value in (ours, loss)]
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients[1])
    close(*gradients, tolerance=1e-4)


@torch.no_grad()
def test_it_starts_as_zero_shot_clip(build, images, weights):
    trainer, clip = build(), load_clip(weights)
    trainer.set_model_mode("train")
    assert torch.equal(trainer.model.features(images)[0] @ clip.visual.proj, clip.encode_image(images))
    words = F.normalize(clip.encode_text(open_clip.tokenize(prompts_of(trainer))), dim=-1)
    close(trainer.model.encode_text()[:, 0], words)
    for maps, width in zip(trainer.model.learned, [IMAGE_WIDTH] * LAYERS + [TEXT_WIDTH] * LAYERS, strict=True):
        for low_rank in maps.values():
            down, up = matrices(low_rank)
            assert down.shape == (3, width) and up.shape == (width, 3) and not up.any()
            assert 0.9 < down.abs().max() * width**0.5 <= 1  # uniform up to 1 / sqrt(W)


@torch.no_grad()
def test_the_products_can_be_merged_into_the_weights_of_a_plain_clip(moved, images, weights):
    clip = load_clip(weights)
    before = clip.encode_image(images)
    blocks = [*clip.visual.transformer.resblocks, *clip.transformer.resblocks]
    for block, maps in zip(blocks, moved.model.learned, strict=True):
        products = [SCALE * up @ down for down, up in (matrices(maps[name]) for name in "qkv")]
        block.attn.in_proj_weight += torch.cat(products)
    merged = clip.encode_image(images)
    assert (merged - before).abs().max() > 0.1
    close(moved.model.features(images)[0] @ clip.visual.proj, merged)
    words = clip.encode_text(open_clip.tokenize(prompts_of(moved)))
    close(moved.model.encode_text()[:, 0], F.normalize(words, dim=-1))


@torch.no_grad()
def test_dropout_is_of_the_product_s_input_and_in_training_only(moved, images):
    low_rank = moved.model.learned[0]["v"]
    down, up = matrices(low_rank)
    x = torch.randn(7, IMAGE_WIDTH)
    moved.set_model_mode("train")
    set_random_seed(5)
    ours = low_rank(x)
    set_random_seed(5)
    close(ours, SCALE * F.dropout(x, SETTINGS["DROPOUT"]) @ down.T @ up.T)
    for feature in (lambda: moved.model.features(images)[0], moved.model.encode_text):
        moved.set_model_mode("train")
        assert not torch.allclose(feature(), feature())
        moved.set_model_mode("eval")
        assert torch.equal(feature(), feature())


@torch.no_grad()
def test_each_text_drops_channels_of_its_own(moved):
    """A test encodes several texts in a row, to the same features."""
    model, ids = moved.model, moved.model.ids
    close(model.clip.encode_text(ids, apart=True), model.clip.encode_text(ids))
    model.ids = ids[[0, 0]]
    for training in (True, False):
        moved.set_model_mode("train" if training else "eval")
        first, second = model.encode_text()
        assert torch.allclose(first, second, atol=1e-5) != training
    shapes, longest = [], int(ids.argmax(dim=1)[0]) + 1
    model.learned[LAYERS]["k"][0].register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    moved.set_model_mode("train")
    model.encode_text()
    assert shapes == [(2, longest, TEXT_WIDTH)]


def test_a_memory_budget_leaves_the_gradient_of_dropped_channels(moved, monkeypatch):
    """Each text is encoded again for the backward pass, and must drop the same channels as before."""
    moved.set_model_mode("train")
    moved.model.clip.memory_budget = 1  # byte: a part for each text
    weights, parts = torch.randn(4, 1, 32), []

    def gradients():
        set_random_seed(5)
        text = moved.model.encode_text()
        torch.rand(1)  # the random state has gone on
        return torch.autograd.grad((text * weights).sum(), list(moved.model.learned[LAYERS:].parameters()))

    ours = gradients()
    monkeypatch.setattr(interface, "checkpoint", lambda run, *rows, **options: parts.append(rows) or run(*rows))
    close(ours, gradients())
    assert len(parts) == 4 and all(gradient.any() for gradient in ours)


def test_the_learning_rate_falls_to_1e_6_in_a_cosine_over_all_steps(build):
    trainer, rates = build({"DATALOADER.TRAIN_X.BATCH_SIZE": 4}), []
    step = trainer.forward_backward
    trainer.forward_backward = lambda batch: rates.append(trainer.get_current_lr()) or step(batch)
    trainer.train()
    n, largest = len(rates), trainer.cfg.OPTIM.LR
    assert n == 2 * 3
    expected = [1e-6 + (largest - 1e-6) * (1 + math.cos(math.pi * step / n)) / 2 for step in range(n)]
    assert rates == pytest.approx(expected) and trainer.get_current_lr() == pytest.approx(1e-6)


def test_steps_move_the_low_rank_matrices_and_nothing_of_clip(build, weights):
    trainer = build()
    assert not trainer.model.frozen_images
    start = [parameter.detach().clone() for parameter in trainer.model.learned.parameters()]
    driven = [parameter for group in trainer.optim.param_groups for parameter in group["params"]]
    learned = list(trainer.model.learned.parameters())
    assert [id(parameter) for parameter in driven] == [id(parameter) for parameter in learned]
    trainer.train()
    assert all((after != before).any() for before, after in zip(start, learned, strict=True))
    frozen = dict(trainer.model.named_parameters())
    frozen = {key: value for key, value in frozen.items() if all(value is not parameter for parameter in learned)}
    plain = load_clip(weights).state_dict()
    assert not torch.equal(plain["logit_scale"], frozen["clip.logit_scale"])
    plain["logit_scale"] = torch.tensor(math.log(100))  # whatever CLIP's is
    assert len(frozen) == len(plain)
    for key, value in frozen.items():
        assert value.grad is None and not value.requires_grad
        assert torch.equal(value, plain[key.removeprefix("clip.").replace(".attention.", ".")]), key


def test_a_resumed_run_ends_as_an_unbroken_one_and_saves_kilobytes(build, tmp_path):
    whole = build({"OUTPUT_DIR": str(tmp_path / "whole")})
    whole.train()
    cut = build()

    def before_epoch():
        if cut.epoch == 1:
            raise KeyboardInterrupt

    cut.before_epoch = before_epoch
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = build()
    set_random_seed(99)
    resumed.train()
    assert resumed.start_epoch == 1
    states = [load_checkpoint(f"{t.output_dir}/prompt_learner/model.pth.tar-2")["state_dict"] for t in (whole, resumed)]
    interrupted = load_checkpoint(f"{resumed.output_dir}/prompt_learner/model.pth.tar-1")["state_dict"]
    assert states[0].keys() == states[1].keys() == interrupted.keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]) and not torch.equal(value, interrupted[key]), key

    shapes = sorted(tuple(value.shape) for value in states[0].values())
    per_map = [shape for width in (IMAGE_WIDTH, TEXT_WIDTH) for shape in ((3, width), (width, 3))]
    assert shapes == sorted(per_map * LAYERS * len("qkv"))
    assert sum(value.nbytes for value in states[0].values()) < 64 * 1024


@pytest.fixture
def train(tmp_path):
    """Function (pairs) -> exit code of train.py with the recipe of the small CLIP on Fashion-MNIST."""
    files = ["backbones/small", "trainers/CLIPLoRA/small"]
    recipe = [part for file in files for part in ("--config-file", f"configs/{file}.yaml")]
    dataset = ["--dataset-config-file", "configs/datasets/fashion_mnist.yaml", "--root", str(tmp_path / "data")]
    command = ["--trainer", "CLIPLoRA", "--output-dir", str(tmp_path / "run"), "--seed", "1", *dataset, *recipe]
    return lambda *pairs: main([*command, "DATASET.NUM_SHOTS", "1", *pairs])


def test_train_py_runs_the_recipe_of_the_small_clip(train, tmp_path):
    assert train("OPTIM.MAX_EPOCH", "1", "TEST.SPLIT", "val") == 0
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.parametrize("key, value", [("RANK", "0"), ("DROPOUT", "1.5"), ("DROPOUT", "-0.1")])
def test_impossible_settings_are_one_line(train, capsys, key, value):
    assert train(f"TRAINER.CLIPLORA.{key}", value) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "TRAINER.CLIPLORA" in lines[0] and key in lines[0] and value in lines[0]

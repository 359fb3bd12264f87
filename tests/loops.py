"""CLIP's towers, similarities and losses written out with loops on a tiny CLIP: what the baselines' tests compare with.

Nothing here calls the towers, prompts or matching of the library: only weights are read.
"""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import trainers  # noqa: F401 (registers them)
from dassl.config import get_cfg_default, merge_pairs
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed
from sotglp.clip import CLIP
from sotglp.interface import PIXEL_MEAN, PIXEL_STD

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


def text_feature(clip, context, name, deep=None, scaled=normalise):
    """The feature of "[SOT] context name [EOT]", normalised by default; context (T, W) given as embeddings.

    deep: {block: tokens (T, W)} that take the places after the SOT before a block.
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
    return scaled(clip.ln_final(x[-1]) @ clip.text_projection)


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
    """Function (trainer, other values, its settings) -> (trainer, images); class names come from the squares.

    moved: whether parameters are moved away from where they start, so that every part counts.
    """

    def make(name, values=(), moved=True, **settings):
        cfg = get_cfg_default()
        TRAINER_REGISTRY.extend_cfg(cfg)
        pixels = {"SIZE": (32, 32), "PIXEL_MEAN": list(PIXEL_MEAN), "PIXEL_STD": list(PIXEL_STD)}
        pairs = {f"INPUT.{key}": value for key, value in pixels.items()} | {"MODEL.BACKBONE.NAME": weights}
        pairs |= {f"TRAINER.{name.upper()}.{key}": value for key, value in {"PREC": "fp32", **settings}.items()}
        pairs |= {"TRAINER.NAME": name, "DATASET.NUM_SHOTS": 2}
        merge_pairs(cfg, {**tiny_values, **pairs, **dict(values)})
        set_random_seed(1)
        trainer = build_trainer(cfg)
        with torch.no_grad():
            for parameter in trainer.model.learned.parameters() if moved else ():
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
def hand_written(trainer):
    empty = trainer.model.clip.token_embedding.weight[:0]
    return [text_feature(trainer.model.clip, empty, f"a photo of a {name}.") for name in names_of(trainer)]

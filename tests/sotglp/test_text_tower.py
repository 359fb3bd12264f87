"""The text tower against the published computation, which runs every position of every prompt."""

from functools import partial

import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.step import all_positions
from sotglp.clip import CLIP
from sotglp.prompts import Prompts
from trainers.sotglp import SparseTransportCLIP

LONG = " ".join(["dog"] * 60)
NAMES = {"one class": ["dog"], "odd lengths": ["dog", LONG, "a very small cat", "cat", "red fox", LONG[:200], "cat"]}


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    sizes = dict(embed_dim=16, image_size=32, patch_size=8, vision_width=64, vision_layers=2)
    return CLIP(**sizes, text_width=64, text_layers=3, text_heads=4).requires_grad_(False).eval()


def assert_same(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def features_and_gradients(encode, learned, weights):
    features = encode()
    return [features, *torch.autograd.grad((features * weights).sum(), learned)]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("own", [False, True], ids=["shared context", "each class its own"])
@pytest.mark.parametrize("budget", ["all at once", "a row at a time", "two of three rows"])
def test_features_and_gradients_are_those_of_the_plain_computation(clip, monkeypatch, names, position, own, budget):
    torch.manual_seed(1)
    positions = {"all at once": torch.inf, "a row at a time": 0, "two of three rows": 3 * 150}[budget]
    monkeypatch.setattr(clip, "memory_budget", positions * clip.bytes_per_position())
    prompts = Prompts(clip, names, torch.randn(*([len(names)] if own else []), 3, 4, 64), position)
    weights = torch.randn(len(names), 3, 16)
    ours = features_and_gradients(lambda: prompts.encode(clip), [prompts.context], weights)
    embed = partial(prompts.embed, prompts.context)
    expected = features_and_gradients(lambda: all_positions(clip, embed, prompts.eot, 3), [prompts.context], weights)
    for one, other in zip(ours, expected, strict=True):
        assert_same(one, other)
    with torch.no_grad():
        assert_same(prompts.encode(clip), expected[0])


@pytest.mark.parametrize("budget", [torch.inf, 0])
@pytest.mark.parametrize("shape", [(4, 64), (2, 64), (7, 4, 64)], ids=["shared", "fewer", "each class its own"])
def test_prompts_in_deeper_blocks(clip, monkeypatch, budget, shape):
    torch.manual_seed(1)
    monkeypatch.setattr(clip, "memory_budget", budget)
    names, deep = NAMES["odd lengths"], {1: torch.randn(shape, requires_grad=True)}
    prompts = Prompts(clip, names, torch.randn(1, 4, 64))
    weights, learned = torch.randn(len(names), 1, 16), [prompts.context, deep[1]]
    embed = partial(prompts.embed, prompts.context)
    ours = features_and_gradients(lambda: prompts.encode(clip, deep=deep), learned, weights)
    expected = features_and_gradients(lambda: all_positions(clip, embed, prompts.eot, deep=deep), learned, weights)
    for one, other in zip(ours, expected, strict=True):
        assert_same(one, other)


def test_sentences(clip):
    """Any ids: with and without common words at the start, and one that is the start of another."""
    sentences = torch.zeros(4, 77, dtype=torch.long)
    for row, ids in zip(sentences, ([1, 5, 6, 9], [1, 5, 9], [1, 5, 6, 7, 8, 9], [1, 5, 6, 9]), strict=True):
        row[: len(ids)] = torch.tensor(ids)
    for part in (sentences, sentences[:1], sentences[[0, 3]], torch.cat([sentences, sentences.new_full((1, 77), 3)])):

        def embed(classes, places, first, part=part):
            return clip.token_embedding(part[classes, places])[None]

        expected = all_positions(clip, embed, part.argmax(dim=-1))[:, 0]
        assert_same(clip.encode_text(part), expected)


def test_nothing_after_eot_counts(clip):
    embeddings, eot = torch.randn(2, 12, 64), torch.tensor([4, 7])

    def embed(classes, places, first):
        return embeddings[classes, places][None]

    features = clip.encode_prompts(embed, eot)
    embeddings[0, 5:], embeddings[1, 8:] = 100.0, -100.0
    torch.testing.assert_close(clip.encode_prompts(embed, eot), features)
    torch.testing.assert_close(clip.encode_prompts(embed, eot[:1]), features[:1])


def test_positions_that_are_run(clip, monkeypatch):
    """Each once: shared ones once per prompt, no padding."""
    run, mlp = [], clip.transformer.resblocks[0].mlp
    hook = mlp.register_forward_hook(lambda module, input, output: run.append(output.shape[:-1].numel()))
    names = ["dog", "red fox", "cat"]
    Prompts(clip, names, torch.randn(2, 4, 64)).encode(clip)
    assert sum(run) == 2 * (1 + 4) + 2 * (2 + 3 + 2)
    run.clear()
    Prompts(clip, names, torch.randn(3, 2, 4, 64)).encode(clip)
    assert sum(run) == 2 * 1 + 2 * (4 * 3 + 2 + 3 + 2)
    hook.remove()


def test_a_budget_bounds_what_the_backward_pass_keeps(clip, monkeypatch):
    """Counted in bytes of saved tensors: without a budget it grows with the classes, with one it does not."""
    kept = {}
    for n_classes in (4, 16):
        for budget in (torch.inf, 20 * clip.bytes_per_position()):
            monkeypatch.setattr(clip, "memory_budget", budget)
            prompts = Prompts(clip, ["red fox"] * n_classes, torch.randn(n_classes, 2, 4, 64))
            saved, weights = {}, {weight.untyped_storage().data_ptr() for weight in clip.parameters()}

            def pack(tensor, saved=saved, weights=weights):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in weights:
                    saved[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                features = prompts.encode(clip)
            kept[n_classes, budget] = sum(saved.values())
            features.sum().backward()
    positions = {n: n * 2 * 7 for n in (4, 16)}
    for n in (4, 16):
        assert 0.5 < kept[n, torch.inf] / (positions[n] * clip.bytes_per_position()) < 2, "the estimate is of that size"
        assert kept[n, 20 * clip.bytes_per_position()] < kept[n, torch.inf] / 3


def test_the_model_learns_the_same_whatever_the_budget(clip, monkeypatch):
    images, gradients = torch.randn(2, 3, 32, 32), []
    for budget in (torch.inf, 0):
        monkeypatch.setattr(clip, "memory_budget", budget)
        torch.manual_seed(2)
        model = SparseTransportCLIP(clip, NAMES["odd lengths"])
        match = model(images)
        (match.g.square().sum() + normalize(match.l).sum()).backward()
        gradients.append([parameter.grad for parameter in model.learned.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert_same(one, other)

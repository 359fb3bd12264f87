"""Backbones of open_clip behind our interface, against open_clip and timm themselves."""

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, LOCAL, SIZE, TIMM, WHOLE, small  # noqa: F401 (a fixture)

from sotglp import load_clip
from sotglp.clip import CLIP, CausalCLIP
from sotglp.interface import STREAMS
from sotglp.prompts import Prompts, context_from_text, encode_texts, tokenize

NAMES = ["cat", "tall ship", "dog"]


@pytest.fixture(params=FAMILIES)
def family(request, small):  # noqa: F811
    return request.param, *small(request.param)


def images(n=3, size=SIZE):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_features_and_logits_are_open_clips(family):
    kind, name, model, ids = family
    clip, sentences = load_clip(name), ids([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(tokenize(clip, NAMES, ["a photo of a {}."]), sentences)
    image, text = clip.encode_image(images()), clip.encode_text(sentences)
    torch.testing.assert_close(image, model.encode_image(images()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text, model.encode_text(sentences), rtol=1e-4, atol=1e-5)
    assert image.std() > 0.01 and (text[0] - text[1]).abs().max() > 1e-3
    logits = clip.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    logits += 0 if clip.logit_bias is None else clip.logit_bias
    torch.testing.assert_close(logits, model.get_logits(images(), sentences)[0], rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in clip.parameters()) and not clip.training
    assert clip.weights_file.name == "weights.pt"  # which results.json identifies
    assert isinstance(clip, CLIP) == (kind in ("MetaCLIP", "DFN"))
    assert isinstance(clip, CausalCLIP) == (kind not in ("SigLIP", "SigLIP 2", "MobileCLIP 2"))


def test_an_image_tower_in_its_file_is_the_same_one(family):
    _, name, _, _ = family
    clip, state = load_clip(name), torch.get_rng_state()
    torch.manual_seed(5)
    stored = load_clip(name, images=False).visual
    torch.set_rng_state(state)
    for fact in ("image_size", "n_patches", "streams", "settings"):
        assert getattr(stored, fact) == getattr(clip.visual, fact)
    assert not list(stored.parameters()), "nothing is loaded yet"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        stored(images(), next(iter(stored.streams), None))
    assert torch.equal(torch.get_rng_state(), state), "the random numbers of a run stay the same"
    for stream in (None, *stored.streams):
        torch.testing.assert_close(stored(images(), stream), clip.visual(images(), stream), rtol=0, atol=0)
        tokens = stored(images(), stream)[0]
        torch.testing.assert_close(stored.to_joint(tokens), clip.visual.to_joint(tokens), rtol=0, atol=0)
    assert not any(parameter.requires_grad or parameter.is_inference() for parameter in stored.parameters())
    assert not stored.opened


def test_prompts_of_words_are_sentences(family):
    """Learned contexts that hold a sentence's words give open_clip's feature of the sentence: padding counts."""
    _, name, model, ids = family
    clip = load_clip(name)
    words, expected = context_from_text(clip, "a photo of a"), []
    for start in ("a photo of a", "one big green"):
        expected.append(F.normalize(model.encode_text(ids([f"{start} {name}." for name in NAMES])), dim=-1))
    contexts = torch.stack([words, F.pad(context_from_text(clip, "one big green"), (0, 0, 0, 1))])
    shared = Prompts(clip, NAMES, contexts[:1], "{}.")(clip)
    torch.testing.assert_close(shared[:, 0], expected[0], rtol=1e-4, atol=1e-5)
    own = Prompts(clip, NAMES, contexts[None, :, :3].repeat(len(NAMES), 1, 1, 1), "{}.")(clip)  # (C, M, T, W)
    torch.testing.assert_close(own[:, 1], expected[1], rtol=1e-4, atol=1e-5)
    middle = Prompts(clip, NAMES, words[None], "{}.", position="middle")(clip)[:, 0]
    around = model.encode_text(ids([f"a photo {name} of a." for name in NAMES]))
    torch.testing.assert_close(middle, F.normalize(around, dim=-1), rtol=1e-4, atol=1e-5)


def test_parts_change_neither_features_nor_gradients(small):  # noqa: F811
    clip = load_clip(small("SigLIP 2")[0])
    prompts = Prompts(clip, NAMES, context_from_text(clip, "a photo of a").repeat(2, 1, 1))
    results = []
    for budget in (float("inf"), 1):
        clip.memory_budget, prompts.context.grad = budget, None
        text = prompts(clip)
        (text * torch.arange(text.numel()).view_as(text)).sum().backward()
        results.append((text.detach(), prompts.context.grad.clone()))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-3)
    assert results[0][1].abs().max() > 0


def seen_by_blocks(trunk, pixels):
    """What enters each block of a trunk of timm, and its other arguments."""
    seen = []
    hooks = [
        block.register_forward_pre_hook(lambda block, args, more: seen.append((args[0], more)), with_kwargs=True)
        for block in trunk.blocks
    ]
    trunk(pixels)
    for hook in hooks:
        hook.remove()
    return seen


def looking_at_values(attention):
    """The attention of a block whose queries and keys are its values."""
    changed = copy.deepcopy(attention)
    if changed.qkv is None:
        changed.q_proj = changed.k_proj = changed.v_proj
    else:
        width = changed.proj.in_features
        changed.qkv.weight.data = changed.qkv.weight[2 * width :].repeat(3, 1)
        changed.qkv.bias.data = changed.qkv.bias[2 * width :].repeat(3)
    return changed


@pytest.mark.parametrize("kind", TIMM)
def test_streams_are_timms_own_layers_rearranged(kind, small):  # noqa: F811
    """Each patch alone through timm's head; values by a mask, V-V by weights, in timm's own blocks."""
    name, model, _ = small(kind)
    clip, trunk = load_clip(name), model.visual.trunk
    seen, start = seen_by_blocks(trunk, images()), trunk.num_prefix_tokens
    x, more = seen[-1]
    alone = torch.full((x.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    expected = {"last": trunk.blocks[-1](x, **more), "value": trunk.blocks[-1](x, **{**more, "attn_mask": alone})}
    vv = seen[0][0] + trunk.blocks[0].attn(trunk.blocks[0].norm1(seen[0][0]), **seen[0][1])
    for block, (x, _) in zip(trunk.blocks, seen, strict=True):
        vv = vv + looking_at_values(block.attn)(block.norm1(x))
    expected["vv"] = vv
    assert trunk.rope is not None if kind in ("EVA02", "PE-Core") else not hasattr(trunk, "rope")
    for stream in STREAMS:
        _, patches = clip.visual(images(), stream)
        joint = clip.visual.to_joint(patches)
        assert joint.shape == (3, clip.visual.n_patches, clip.embed_dim)
        for p in range(clip.visual.n_patches):
            token = trunk.norm(expected[stream])[:, start + p : start + p + 1]
            torch.testing.assert_close(joint[:, p], trunk.forward_head(token), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LOCAL)
def test_all_streams_in_one_pass_are_those_of_one_each(kind, small):  # noqa: F811
    visual = load_clip(small(kind)[0]).visual
    pooled, patches = visual.encode_images(images(), STREAMS)
    for stream in STREAMS:
        alone, of_stream = visual(images(), stream)
        torch.testing.assert_close(of_stream, patches[stream], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone, pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", WHOLE)
def test_without_patch_tokens_streams_are_refused(kind, small):  # noqa: F811
    visual = load_clip(small(kind)[0]).visual
    with pytest.raises(ValueError, match="no patch tokens.*such as CoOp"):
        visual(images(), "vv")


@pytest.mark.parametrize("kind", ["EVA02", "PE-Core", "SigLIP 2", "MetaCLIP"])
def test_other_sizes_of_images_as_open_clip_interpolates(kind, small):  # noqa: F811
    name, model, _ = small(kind)
    clip = load_clip(f"{name}@48")
    assert clip.visual.image_size == 48 and clip.visual.n_patches == 36
    stored = load_clip(f"{name}@48", images=False).visual
    assert stored.image_size == 48 and stored.n_patches == 36
    if kind == "MetaCLIP":
        larger = open_clip.CLIP(
            32, dict(image_size=48, layers=3, width=48, head_width=24, patch_size=8), {**TEXT}, True
        )
        state = model.state_dict()
        open_clip.model.resize_pos_embed(state, larger)
        larger.load_state_dict(state)
        model = larger.eval()
    else:
        model.visual.set_input_size(48)
    pixels = images(size=48)
    torch.testing.assert_close(clip.encode_image(pixels), model.encode_image(pixels), rtol=1e-4, atol=1e-5)
    assert clip.visual(pixels, "vv")[1].shape[1] == 36
    with pytest.raises(ValueError, match="patches of 8 pixels do not tile images of 50"):
        load_clip(f"{name}@50")


TEXT = dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=2)


def test_other_text_encodings(small):  # noqa: F811
    """Names that are too long are cut off by the backbone's own tokenizer, and templates are averaged."""
    name, model, ids = small("SigLIP")
    clip = load_clip(name)
    long = " ".join(["word"] * 70)
    with pytest.raises(ValueError, match="the context leaves room for 63"):
        tokenize(clip, [long], ["{}"])
    clip.long_names = "truncate"
    with pytest.warns(UserWarning, match="too long"):
        assert (tokenize(clip, [long], ["{}"])[0] != 1).sum() == 63
    texts = encode_texts(clip, NAMES, ["a {}", "the {}"])
    torch.testing.assert_close(texts[1, 1], model.encode_text(ids(["the tall ship"]))[0], rtol=1e-4, atol=1e-5)

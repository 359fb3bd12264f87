"""The towers against open_clip's encoders and against a plain loop, on random weights."""

import open_clip
import pytest
import torch
from torch import nn

from sotglp.clip import CLIP
from sotglp.towers import QuickGELU

SIZES = dict(
    embed_dim=32,
    image_size=32,
    patch_size=8,
    vision_width=128,
    vision_layers=3,
    text_width=64,
    text_layers=2,
)


@pytest.fixture
def clip():
    torch.manual_seed(0)
    return CLIP(**SIZES).requires_grad_(False)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_encoders_equal_open_clip(quick_gelu):
    torch.manual_seed(0)
    reference = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 32, "patch_size": 8, "width": 128, "layers": 3, "head_width": 32},
        text_cfg={"width": 64, "heads": 4, "layers": 2},
        quick_gelu=quick_gelu,
    ).eval()
    nn.init.normal_(reference.visual.ln_post.bias)  # the defaults of norms and biases would hide their misuse
    nn.init.normal_(reference.transformer.resblocks[0].attn.in_proj_bias)
    state = {key: value for key, value in reference.state_dict().items() if key != "attn_mask"}
    clip = CLIP.from_state_dict(state, vision_heads=4, text_heads=4, act=QuickGELU if quick_gelu else nn.GELU)
    images = torch.randn(3, 3, 32, 32)
    token_ids = open_clip.tokenize(["a cat", "two very small birds on a long branch", "x"])
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(images), reference.encode_image(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(clip.encode_text(token_ids), reference.encode_text(token_ids), rtol=1e-5, atol=1e-5)


def slow_patches(visual, image):
    """method.md's second stream, one head and one token at a time."""
    x = visual.ln_pre(visual.embed(image[None]))[0]
    stream = None
    for block in visual.transformer.resblocks:
        h = block.ln_1(x)
        q, k, v = (h @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)

        def attention(q, k, v, heads=block.attn.heads):
            width = q.shape[-1] // heads
            out = torch.zeros_like(v)
            for i in range(heads):
                part = slice(i * width, (i + 1) * width)
                for t in range(len(q)):
                    weights = torch.softmax(k[:, part] @ q[t, part] / width**0.5, dim=0)
                    out[t, part] = weights @ v[:, part]
            return out

        standard = block.attn.out_proj(attention(q, k, v))
        value_value = block.attn.out_proj(attention(v, v, v))
        stream = x + standard + value_value if stream is None else stream + value_value
        x = x + standard
        x = x + block.mlp(block.ln_2(x))
    return visual.ln_post(x[0]), visual.ln_post(stream[1:])


@pytest.mark.parametrize("layers", [1, 3])
def test_both_streams_equal_a_plain_loop(layers):
    torch.manual_seed(1)
    visual = CLIP(**{**SIZES, "vision_layers": layers}).requires_grad_(False).visual
    images = torch.randn(2, 3, 32, 32)
    class_tokens, patches = visual(images)
    for i, image in enumerate(images):
        class_token, tokens = slow_patches(visual, image)
        torch.testing.assert_close(class_tokens[i], class_token, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(patches[i], tokens, rtol=1e-5, atol=1e-5)


def test_local_stream_leaves_the_class_token_alone(clip):
    images = torch.randn(2, 3, 32, 32)
    alone, none = clip.visual(images, local=None)
    assert none is None
    torch.testing.assert_close(clip.visual(images)[0], alone)


def test_images_of_another_size_are_refused(clip):
    with pytest.raises(ValueError, match=r"\(16, 16\).*takes \(32, 32\)"):
        clip.visual(torch.zeros(1, 3, 16, 16))


def test_check_pixels(clip):
    clip.check_pixels((32, 32), list(clip.pixel_mean), list(clip.pixel_std))
    with pytest.raises(ValueError, match="INPUT.SIZE is"):
        clip.check_pixels((224, 224), clip.pixel_mean, clip.pixel_std)
    with pytest.raises(ValueError, match="INPUT.PIXEL_MEAN"):
        clip.check_pixels((32, 32), (0.5, 0.5, 0.5), clip.pixel_std)


def test_resnets_and_strangers_are_refused(clip):
    with pytest.raises(ValueError, match="ResNet"):
        CLIP.from_state_dict({"visual.layer1.0.conv1.weight": torch.zeros(1), "text_projection": torch.zeros(1, 1)})
    state = clip.state_dict()
    del state["ln_final.bias"]
    with pytest.raises(ValueError, match="ln_final.bias"):
        CLIP.from_state_dict(state)

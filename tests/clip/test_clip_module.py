"""The in-tree `clip`, OpenAI's module for third-party trainers, against open_clip and our own towers."""

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer as Reference
from PIL import Image

import clip
import sotglp
from clip import clip as module
from clip.model import build_model
from clip.simple_tokenizer import SimpleTokenizer

TEXTS = ["a photo of a dog.", "an upside-down T-shirt, isn't it?", "  Ünïcode  & &amp; "]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def state_of(model):
    return {name: value for name, value in model.state_dict().items() if name != "attn_mask"}


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    return open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 32, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    return open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@torch.no_grad()
def test_features_are_open_clips(kind, request):
    reference = request.getfixturevalue(kind)
    model = build_model(state_of(reference))
    assert model.dtype == torch.float16 and model.ln_final.weight.dtype == torch.float32
    model = build_model({k: v.float() for k, v in state_of(reference).items()}).float()
    model.load_state_dict(state_of(reference))  # without the way through half precision
    size = model.visual.input_resolution
    images, tokens = torch.randn(3, 3, size, size), open_clip.tokenize(TEXTS)
    for ours, theirs in (
        (model.encode_image(images), reference.encode_image(images)),
        (model.encode_text(tokens), reference.encode_text(tokens)),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    per_image, per_text = model(images, tokens)
    assert per_image.shape == (3, 3) and torch.equal(per_image, per_text.T)


@torch.no_grad()
def test_transformers_take_the_length_first(vit):
    """A batch is (L, B, W): another row of the batch does not change a text, a later position neither."""
    model = build_model(state_of(vit)).float()
    x = torch.randn(77, 2, 64)
    y = model.transformer(x)
    torch.testing.assert_close(model.transformer(x[:, :1]), y[:, :1])
    later = x.clone()
    later[40:] += 1
    torch.testing.assert_close(model.transformer(later)[:40], y[:40])
    torch.testing.assert_close(model.transformer(x[:9]), y[:9])  # shorter than the context
    vision = torch.randn(17, 2, 64)
    torch.testing.assert_close(model.visual.transformer(vision[:, 1:]), model.visual.transformer(vision)[:, 1:])


@torch.no_grad()
def test_half_precision_is_near_float(vit):
    model, images = build_model(state_of(vit)), torch.randn(2, 3, 32, 32)
    half = model.encode_image(images)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), vit.encode_image(images), rtol=2e-2, atol=2e-2)
    tokens = clip.tokenize(TEXTS)
    torch.testing.assert_close(model.encode_text(tokens).float(), vit.encode_text(tokens), rtol=2e-2, atol=2e-2)


@torch.no_grad()
def test_the_small_clip_loads_by_name_and_is_ours(home):
    model, preprocess = clip.load("small", device="cpu")
    ours = sotglp.load_clip("small")
    image = preprocess(Image.new("L", (90, 70), 200))[None]
    torch.testing.assert_close(model.encode_image(image), ours.encode_image(image), rtol=1e-4, atol=1e-4)
    tokens = clip.tokenize(TEXTS[:1])
    torch.testing.assert_close(model.encode_text(tokens), ours.encode_text(tokens), rtol=1e-4, atol=1e-4)
    (path,) = (home / ".cache" / "clip").iterdir()
    assert module._download(module._MODELS["small"]) == str(path)  # converted once
    assert torch.load(path)["token_embedding.weight"].shape[0] == 49408  # what a trainer does by hand


def test_weights_files_and_unknown_names(vit, tmp_path, home, monkeypatch):
    path = tmp_path / "mine.pt"
    torch.save(vit.state_dict(), path)
    assert module._download(module._MODELS[str(path)]) == str(path)
    assert clip.load(str(path), device="cpu")[0].visual.input_resolution == 32
    with pytest.raises(KeyError, match="unknown CLIP ViT-Z/1: use ViT-B/32, .*RN50, .*small, or a file of weights"):
        clip.load("ViT-Z/1")
    assert {"RN50", "RN101", "ViT-B/32", "ViT-B/16", "ViT-L/14"} <= set(clip.available_models())

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(module, "announce", unreachable)
    with pytest.raises(FileNotFoundError, match="ViT-B-16.pt is not on this machine"):
        clip.load("ViT-B/16")


def test_tokens_are_open_clips():
    assert torch.equal(clip.tokenize(TEXTS).long(), open_clip.tokenize(TEXTS))
    assert torch.equal(clip.tokenize("a dog"), clip.tokenize(["a dog"]))
    long = "dog " * 90
    with pytest.raises(RuntimeError, match="92 tokens, 77 are allowed"):
        clip.tokenize(long)
    assert torch.equal(clip.tokenize(long, truncate=True).long(), open_clip.tokenize(long))
    assert clip.tokenize("a dog", context_length=5).shape == (1, 5)
    tokenizer = SimpleTokenizer()
    assert tokenizer.encode(TEXTS[1]) == Reference().encode(TEXTS[1])
    assert tokenizer.encoder["<|startoftext|>"] == 49406 and tokenizer.encoder["<|endoftext|>"] == 49407
    assert tokenizer.decode(tokenizer.encode("ankle boot")).strip() == "ankle boot"

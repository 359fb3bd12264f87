"""Where weights come from, and the errors when there are none."""

import urllib.error
import urllib.request
from pathlib import Path
from unittest.mock import MagicMock

import open_clip
import pytest
import safetensors.torch
import torch
import yaml

from sotglp import hub, load_clip
from sotglp.backbones import OPENAI
from sotglp.clip import CLIP

TEXT = open_clip.tokenize(["a cat"])
CONFIGS = Path(__file__).parents[2] / "configs" / "backbones"


@pytest.fixture
def clip():
    torch.manual_seed(0)
    sizes = dict(embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1)
    return CLIP(**sizes, text_width=64, text_layers=1).requires_grad_(False)


class OpenAIArchive(torch.nn.Module):
    """The form of OpenAI's JIT archives: half-precision weights, and sizes as buffers."""

    def __init__(self, clip):
        super().__init__()
        self.visual, self.transformer, self.ln_final = clip.visual, clip.transformer, clip.ln_final
        self.token_embedding, self.positional_embedding = clip.token_embedding, clip.positional_embedding
        self.text_projection, self.logit_scale = clip.text_projection, clip.logit_scale
        self.register_buffer("input_resolution", torch.tensor(16))
        self.register_buffer("context_length", torch.tensor(77))
        self.register_buffer("vocab_size", torch.tensor(49408))

    def forward(self, x):
        return x


def save_archive(clip, path):
    torch.jit.trace(OpenAIArchive(clip), torch.zeros(1)).save(str(path))


SAVE = {
    "state.pt": lambda clip, path: torch.save(clip.state_dict(), path),
    "nested.pth": lambda clip, path: torch.save(
        {"state_dict": {f"module.{k}": v for k, v in clip.state_dict().items()}}, path
    ),
    "weights.safetensors": lambda clip, path: safetensors.torch.save_file(clip.state_dict(), path),
    "archive.pt": save_archive,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", SAVE)
def test_files(clip, name, tmp_path):
    SAVE[name](clip.half(), tmp_path / name)
    loaded = load_clip(str(tmp_path / name))
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in loaded.parameters())
    torch.testing.assert_close(loaded.encode_text(TEXT), clip.float().encode_text(TEXT))


def test_the_small_clip_knows_its_words():
    clip = load_clip("small")
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    assert clip.known_tokens.issuperset(tokenizer.encode("a photo of a dress"))
    unknown = next(i for i in range(40000) if i not in clip.known_tokens)
    assert not clip.token_embedding.weight[unknown].any()
    assert clip.token_embedding.weight[next(iter(clip.known_tokens))].any()


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("ViT-B/17", ValueError, "did you mean ViT-B/16"),
        ("nowhere/clip.pt", FileNotFoundError, "no CLIP weights at nowhere/clip.pt"),
        ("ViT-B-16:nobody", ValueError, "laion2b_s34b_b88k"),
        ("xlm-roberta-base-ViT-B-32:laion5b_s13b_b90k", ValueError, "text tower that takes no embeddings"),
        ("coca_ViT-B-32:laion2b_s13b_b90k", ValueError, "text tower that takes no embeddings"),
    ],
)
def test_names_that_cannot_be(name, error, message):
    with pytest.raises(error, match=message):
        load_clip(name)


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "clip.pt").write_text("no")
    with pytest.raises(ValueError, match="clip.pt is no readable CLIP checkpoint"):
        load_clip(str(tmp_path / "clip.pt"))


@pytest.mark.parametrize("name, file", [("ViT-B/16", "ViT-B-16.pt"), ("ViT-L/14@336px", "ViT-L-14-336px.pt")])
def test_without_network_the_file_is_named(name, file, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args: None)
    line = f"take the CLIP of this repository .--backbone small; .*put {file} into ~/.cache/clip, or give a file's path"
    with pytest.raises(FileNotFoundError, match=line):
        load_clip(name)


def test_size_and_time_of_a_download_are_said_before_it_starts(monkeypatch, capsys):
    def answer(request, timeout):
        assert request.get_method() == "HEAD"  # nothing of the file is read
        if not request.full_url.endswith("open_clip_pytorch_model.bin"):
            raise urllib.error.HTTPError(request.full_url, 404, "no such file", {}, None)
        response = MagicMock(headers={"Content-Length": str(599_000_000)})
        response.__enter__.return_value = response
        return response

    def download(source, prefer_hf_hub):
        printed.append(capsys.readouterr().err)
        raise OSError("the network is gone")

    printed = []
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(hub, "download_pretrained", download)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args: None)
    with pytest.raises(FileNotFoundError, match="put a/b into the Hugging Face cache"):
        hub.fetch({"hf_hub": "a/b/"}, "ViT-B-16:laion")
    assert printed == ["downloading the weights of ViT-B-16:laion: 599 MB, 2 min at 50 Mbit/s\n"]


def test_open_clips_cache_is_used(clip, monkeypatch, tmp_path):
    """A tag's file as the hub's cache holds it, read with the architecture's own heads and activation."""
    torch.manual_seed(0)
    reference = open_clip.create_model("ViT-S-32").eval()
    state = {k: v.half() for k, v in reference.state_dict().items() if k != "attn_mask"}
    safetensors.torch.save_file(state, tmp_path / "open_clip_model.safetensors")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda hub, file: str(tmp_path / file))
    monkeypatch.setattr(hub, "get_pretrained_cfg", lambda *_: {"hf_hub": "a/b/", "mean": (0.5,) * 3, "std": (0.5,) * 3})
    clip = load_clip("ViT-S-32:made_up")
    reference.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_text(TEXT), reference.encode_text(TEXT), rtol=1e-4, atol=1e-5)
    assert clip.pixel_mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_*.yaml")), ids=lambda path: path.stem)
def test_configured_backbones_exist_with_their_own_preprocessing(path):
    """But for squashing: all images are cropped."""
    config = yaml.safe_load(path.read_text())
    name = config["MODEL"]["BACKBONE"]["NAME"]
    architecture, tag = f"{OPENAI[name]}:openai".split(":") if name in OPENAI else name.split(":")
    pixels = yaml.safe_load((CONFIGS / "vit_b16.yaml").read_text())["INPUT"] | config.get("INPUT", {})
    source, size = hub.get_pretrained_cfg(architecture, tag), hub.open_clip.get_model_config(architecture)["vision_cfg"]
    assert tag in open_clip.list_pretrained_tags_by_model(architecture)
    assert pixels["SIZE"] == str((size["image_size"],) * 2)
    assert pixels["INTERPOLATION"] == source["interpolation"]
    assert pixels["PIXEL_MEAN"] == pytest.approx(source["mean"]) and pixels["PIXEL_STD"] == pytest.approx(source["std"])

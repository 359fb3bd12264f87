"""Models of open_clip, with weights from its cache or downloaded.

Import this module only where it is used: open_clip imports torchvision and timm, which take seconds.
"""

import math
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from torch import nn

from sotglp.checkpoints import from_file, read_state
from sotglp.interface import Backbone
from sotglp.tokens import Tokenizer, of_hugging_face
from sotglp.towers import QuickGELU
from sotglp.wrapped import wrap

# The keys of open_clip's configuration of a plain CLIP. With any other key it is another architecture.
PLAIN = {
    "": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}


OPENAI_CACHE = Path("~/.cache/clip")
SPEED = 50  # Mbit/s, for the time that a download is said to take


def is_plain(architecture: str) -> bool:
    """Return whether an architecture is a plain CLIP with a vision transformer."""
    config = open_clip.get_model_config(architecture)
    extra = [set(config[part] if part else config) - plain for part, plain in PLAIN.items()]
    return not any(extra) and isinstance(config["vision_cfg"].get("layers"), int)


def from_open_clip(architecture: str, tag: str, name: str, images: bool) -> Backbone:
    """Return a model with the weights of a tag.

    Args:
        architecture: open_clip's name of it.
        tag: open_clip's name of the weights.
        name: of the backbone, for errors.
        images: as in ``CLIP.from_state_dict``; only a plain CLIP can do without.

    Raises:
        ValueError: the architecture has no such weights, or a text tower that takes no embeddings.
        FileNotFoundError: the weights are neither on this machine nor can they be downloaded.
    """
    source = get_pretrained_cfg(architecture, tag)
    if not source:
        tags = ", ".join(list_pretrained_tags_by_model(architecture))
        raise ValueError(f"unknown weights {tag!r} of {architecture}: open_clip has {tags}")
    config = open_clip.get_model_config(architecture)
    config["quick_gelu"] = config.get("quick_gelu", False) or source.get("quick_gelu", False)
    clip = plain(config, source, name, images) if is_plain(architecture) else other(config, source, name, architecture)
    clip.pixel_mean, clip.pixel_std = tuple(source["mean"]), tuple(source["std"])
    return clip


def plain(config: Mapping[str, Any], source: Mapping[str, Any], name: str, images: bool) -> Backbone:
    """Return a plain CLIP.

    Args:
        config: of its architecture.
        source: open_clip's entry of its weights.
        name: of the backbone, for errors.
        images: as in ``CLIP.from_state_dict``.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    return from_file(
        Path(fetch(source, name)),
        vision_heads=vision["width"] // vision.get("head_width", 64),
        text_heads=text["heads"],
        act=QuickGELU if config["quick_gelu"] else nn.GELU,
        images=images,
    )


def other(config: dict[str, Any], source: Mapping[str, Any], name: str, architecture: str) -> Backbone:
    """Return what is not a plain CLIP; arguments as in ``from_open_clip`` and ``plain``."""
    if "hf_model_name" in config["text_cfg"] or config["text_cfg"].get("embed_cls"):
        raise ValueError(f"backbone {name} has a text tower that takes no embeddings: take one of open_clip's own")
    tokenizer, path = tokenizer_of(architecture, name), Path(fetch(source, name))
    model = open_clip.CustomTextCLIP(**{key: value for key, value in config.items() if key != "custom_text"})
    state = convert_to_custom_text_state_dict(convert_state_dict(model, read_state(path)))
    if model.logit_bias is not None:
        state.setdefault("logit_bias", torch.zeros(()))
    try:
        model.load_state_dict({k: v.reshape(()) if k in ("logit_scale", "logit_bias") else v for k, v in state.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} does not hold the weights of {name}: {reason}") from error
    clip = wrap(model, config["embed_dim"])
    clip.weights_file = path
    if tokenizer is not None:
        clip.tokenizer = tokenizer
    return clip


def tokenizer_of(architecture: str, name: str) -> Tokenizer | None:
    """Return the tokenizer of an architecture, downloaded if it is not on this machine; None for CLIP's own.

    Raises:
        ValueError: it needs a package that is not installed.
        FileNotFoundError: it is neither on this machine nor can it be downloaded.
    """
    source = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name")
    if not source:
        return None
    try:
        if not isinstance(try_to_load_from_cache(source, "tokenizer_config.json"), str):
            announce([hf_hub_url(source, "tokenizer.json")], f"the tokenizer of {name}")
        return of_hugging_face(open_clip.get_tokenizer(architecture))
    except ImportError as error:
        raise ValueError(f"the tokenizer of {name} needs packages: pip install transformers sentencepiece") from error
    except OSError as error:
        raise FileNotFoundError(
            f"the tokenizer of {name} is not on this machine and cannot be downloaded: put {source} into the Hugging "
            "Face cache"
        ) from error


def is_cached(architecture: str, tag: str) -> bool:
    """Return whether the weights are on this machine."""
    source = get_pretrained_cfg(architecture, tag)
    return bool(cached_from_hub(source)) or in_cache(source["url"])


def in_cache(url: str) -> bool:
    """Return whether the file of an address is in the folder that open_clip downloads it to."""
    return bool(url) and (OPENAI_CACHE.expanduser() / url.rsplit("/", 1)[-1]).is_file()


def cached_from_hub(source: Mapping[str, Any]) -> str | None:
    """Return the path of weights in the Hugging Face cache, None if they are not there.

    Args:
        source: open_clip's entry of the weights.
    """
    for hub, file in files_on_hub(source):
        cached = try_to_load_from_cache(hub, file)
        if isinstance(cached, str):
            return cached
    return None


def files_on_hub(source: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of a repository of the Hugging Face hub and a file in it; the first that exists is taken."""
    hub, _, file = source.get("hf_hub", "").rpartition("/")
    files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return [(hub, file) for file in files] if hub else []


def announce(urls: list[str], name: str) -> None:
    """Say on stderr how large a download is, and how long it takes, before it starts.

    Args:
        urls: addresses, the first of which that exists is taken.
        name: of what is downloaded.

    Raises:
        OSError: there is no network.
    """
    for url in urls:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as response:
                size = int(response.headers["Content-Length"])
        except (urllib.error.HTTPError, TypeError):  # no such file, or of unknown size
            continue
        minutes = math.ceil(size * 8 / 1e6 / SPEED / 60)
        print(f"downloading {name}: {size / 1e6:,.0f} MB, {minutes} min at {SPEED} Mbit/s", file=sys.stderr)
        return
    print(f"downloading {name}, of unknown size", file=sys.stderr)


def fetch(source: Mapping[str, Any], name: str) -> str:
    """Return the path of weights, cached or downloaded now.

    Args:
        source: open_clip's entry of the weights.
        name: of the backbone, for errors.

    Raises:
        FileNotFoundError: the weights are neither on this machine nor can they be downloaded.
    """
    cached = cached_from_hub(source)
    if cached:
        return cached
    url, hub = source.get("url", ""), source.get("hf_hub", "").rpartition("/")[0]
    try:
        if not in_cache(url):
            announce([url] if url else [hf_hub_url(*file) for file in files_on_hub(source)], f"the weights of {name}")
        # OpenAI's own address first: without a network it fails at once, the hub only after many retries.
        return download_pretrained(source, prefer_hf_hub=not url)
    except (OSError, RuntimeError) as error:
        where = f"put {url.rsplit('/', 1)[-1]} into ~/.cache/clip" if url else f"put {hub} into the Hugging Face cache"
        raise FileNotFoundError(
            f"the weights of {name} are not on this machine and cannot be downloaded: take the CLIP of this repository "
            f"(--backbone small; BACKBONE=small for scripts), {where}, or give a file's path as the backbone (OpenAI's "
            ".pt or .safetensors)"
        ) from error

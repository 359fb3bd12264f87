"""Weights of open_clip: from its cache, or downloaded.

Import this module only where it is used: open_clip imports torchvision and timm, which take seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import try_to_load_from_cache
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from torch import nn

from sotglp.checkpoints import from_file
from sotglp.clip import CLIP
from sotglp.towers import QuickGELU

# The keys of open_clip's configuration of a plain CLIP. With any other key it is another architecture.
PLAIN = {
    "": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}


def is_plain(architecture: str) -> bool:
    """Return whether an architecture is a plain CLIP with a vision transformer."""
    config = open_clip.get_model_config(architecture)
    extra = [set(config[part] if part else config) - plain for part, plain in PLAIN.items()]
    return not any(extra) and isinstance(config["vision_cfg"].get("layers"), int)


def from_open_clip(architecture: str, tag: str, name: str) -> CLIP:
    """Return a plain CLIP with the weights of a tag.

    Args:
        architecture: open_clip's name of it.
        tag: open_clip's name of the weights.
        name: of the backbone, for errors.

    Raises:
        ValueError: the architecture has no such weights.
        FileNotFoundError: the weights are neither on this machine nor can they be downloaded.
    """
    source = get_pretrained_cfg(architecture, tag)
    if not source:
        tags = ", ".join(list_pretrained_tags_by_model(architecture))
        raise ValueError(f"unknown weights {tag!r} of {architecture}: open_clip has {tags}")
    config = open_clip.get_model_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    quick = config.get("quick_gelu", False) or source.get("quick_gelu", False)
    clip = from_file(
        Path(fetch(source, name)),
        vision_heads=vision["width"] // vision.get("head_width", 64),
        text_heads=text["heads"],
        act=QuickGELU if quick else nn.GELU,
    )
    clip.pixel_mean, clip.pixel_std = tuple(source["mean"]), tuple(source["std"])
    return clip


def is_cached(architecture: str, tag: str) -> bool:
    """Return whether the weights are on this machine."""
    source = get_pretrained_cfg(architecture, tag)
    folder = Path("~/.cache/clip").expanduser()
    return bool(cached_from_hub(source)) or (folder / source["url"].rsplit("/", 1)[-1]).is_file()


def cached_from_hub(source: Mapping[str, Any]) -> str | None:
    """Return the path of weights in the Hugging Face cache, None if they are not there.

    Args:
        source: open_clip's entry of the weights.
    """
    hub, _, file = source.get("hf_hub", "").rpartition("/")
    for candidate in [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]:
        cached = try_to_load_from_cache(hub, candidate) if hub else None
        if isinstance(cached, str):
            return cached
    return None


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
    try:
        # OpenAI's own address first: without a network it fails at once, the hub only after many retries.
        return download_pretrained(source, prefer_hf_hub=not source.get("url"))
    except (OSError, RuntimeError) as error:
        url, hub = source.get("url", ""), source.get("hf_hub", "").rpartition("/")[0]
        where = f"put {url.rsplit('/', 1)[-1]} into ~/.cache/clip" if url else f"put {hub} into the Hugging Face cache"
        raise FileNotFoundError(
            f"the weights of {name} are not on this machine and cannot be downloaded: {where}, "
            "or give a file's path as the backbone (OpenAI's .pt or .safetensors)"
        ) from error

"""CLIP by name: the small one in this package, a file, or weights from open_clip's cache or download."""

import difflib
from functools import partial
from pathlib import Path

from sotglp.checkpoints import from_file
from sotglp.interface import Backbone, ImageEncoder
from sotglp.stored import StoredTower

SMALL = Path(__file__).parent / "weights" / "small_clip.safetensors"
# The field's name of each of OpenAI's CLIPs, and open_clip's name.
OPENAI = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
    **{name: name for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")},
}
ALLOWED = (
    f"{', '.join(['small', *OPENAI])}, a weights file, or open_clip's NAME:TAG (ViT-B-16:laion2b_s34b_b88k); @SIZE "
    "after it takes other images (ViT-B/16@336)"
)


def load_clip(name: str, images: bool = True) -> Backbone:
    """Return a frozen CLIP in float32.

    Args:
        name: ``small`` (the CLIP in this package), one of OpenAI's (``ViT-B/16``), a file (OpenAI's ``.pt``, as a JIT
            archive or a state dict, or ``.safetensors``), or a model of open_clip, ``NAME:TAG``. After each ``@SIZE``
            may stand: images of so many pixels, for which positional embeddings are interpolated.
        images: False leaves the image tower in its file until it is used (StoredTower).

    Raises:
        ValueError: an unknown name, an unreadable file, or an architecture or a size that is not supported.
        FileNotFoundError: the weights are neither on this machine nor can they be downloaded.
    """
    clip = read_clip(name, images)
    if not images:
        assert clip.weights_file is not None
        clip.visual = StoredTower(clip.visual, clip.weights_file, partial(image_tower, name))
    return clip


def image_tower(name: str) -> ImageEncoder:
    """Return the image tower of ``load_clip(name)``."""
    return load_clip(name).visual


def read_clip(name: str, images: bool) -> Backbone:
    """Return what ``load_clip`` does; without ``images``, weights of the image tower may be on the device "meta"."""
    if name == "small":
        return from_file(SMALL, images=images)
    if Path(name).is_file():
        return from_file(Path(name), images=images)
    base, _, size = name.rpartition("@")
    if base and size.isdecimal():
        clip = read_clip(base, images)
        clip.visual.resize(int(size))
        return clip
    if Path(name).suffix in (".pt", ".pth", ".bin", ".safetensors"):
        raise FileNotFoundError(f"no CLIP weights at {name}: give an existing file, or one of {ALLOWED}")
    from sotglp import hub  # here, as open_clip takes seconds to import

    architecture, _, tag = (f"{OPENAI[name]}:openai" if name in OPENAI else name).partition(":")
    models = hub.open_clip.list_models()
    if tag and architecture in models:
        return hub.from_open_clip(architecture, tag, name, images)
    near = difflib.get_close_matches(name, ["small", *OPENAI, *models], n=3)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ValueError(f"unknown backbone {name!r}{hint}: take one of {ALLOWED}")


def cached_backbones() -> list[str]:
    """Return OpenAI's names whose weights are on this machine."""
    from sotglp import hub  # here, as open_clip takes seconds to import

    return [name for name, architecture in OPENAI.items() if hub.is_cached(architecture, "openai")]

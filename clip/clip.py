"""Loading by name, and tokens."""

import hashlib
import os
import os.path as osp
from pathlib import Path

import torch
from open_clip.pretrained import download_pretrained_from_url, get_pretrained_url
from torchvision import transforms as T

import sotglp
from sotglp.backbones import OPENAI, SMALL, read_state

from .model import build_model
from .simple_tokenizer import SimpleTokenizer

__all__ = ["available_models", "build_model", "load", "tokenize"]

_tokenizer = SimpleTokenizer()


class _Models(dict):
    """{name: address of the weights}. A file's path is its own name and address."""

    def __missing__(self, name):
        if osp.isfile(name):
            return name
        raise KeyError(f"unknown CLIP {name}: take {', '.join(self)}, or a weights file")


_MODELS = _Models(
    {name: get_pretrained_url(name, "openai") for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")}
    | {name: get_pretrained_url(other, "openai") for name, other in OPENAI.items()}
    | {"small": str(SMALL)}
)


def available_models():
    return list(_MODELS)


def _download(url, root=None):
    """Path of a file that `torch.load` or `torch.jit.load` reads: cached, downloaded, or converted from safetensors.

    Raises FileNotFoundError if the weights are neither on this machine nor to be downloaded.
    """
    root = osp.expanduser(root or "~/.cache/clip")
    if osp.isfile(url):
        return _as_torch_file(url, root) if url.endswith(".safetensors") else url
    try:
        return download_pretrained_from_url(url, cache_dir=root)
    except (OSError, RuntimeError) as error:
        file = url.rsplit("/", 1)[-1]
        raise FileNotFoundError(
            f"{file} is not on this machine and cannot be downloaded: put it into {root}"
        ) from error


def _as_torch_file(path, root):
    """A copy of a safetensors file that torch.load reads, with the whole token embedding, in the cache."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    target = osp.join(root, f"{Path(path).stem}-{digest}.pt")
    if not osp.isfile(target):
        os.makedirs(root, exist_ok=True)
        partial = f"{target}.{os.getpid()}"
        torch.save({name: weight.half() for name, weight in sotglp.load_clip(path).state_dict().items()}, partial)
        os.replace(partial, target)
    return target


def load(name, device=None, jit=False, download_root=None):
    """The model of that name (float32 on the CPU, else half precision) and its preprocessing of PIL images.

    The device is a GPU if there is one. `jit` is taken for compatibility; the model is always a plain module.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(read_state(Path(_download(_MODELS[name], download_root)))).to(device)
    if torch.device(device).type == "cpu":
        model.float()
    return model, _transform(model.visual.input_resolution)


def _to_rgb(image):  # named, so that loader processes can pickle it
    return image.convert("RGB")


def _transform(size):
    return T.Compose(
        [
            T.Resize(size, T.InterpolationMode.BICUBIC),
            T.CenterCrop(size),
            _to_rgb,
            T.ToTensor(),
            T.Normalize(sotglp.clip.PIXEL_MEAN, sotglp.clip.PIXEL_STD),
        ]
    )


def tokenize(texts, context_length=77, truncate=False):
    """BPE ids (B, context_length) of a text or of B texts, between start and end token, padded with 0.

    Raises RuntimeError if a text is too long and `truncate` is not set.
    """
    texts = [texts] if isinstance(texts, str) else texts
    result = torch.zeros(len(texts), context_length, dtype=torch.int)
    for row, text in zip(result, texts, strict=True):
        ids = [_tokenizer.sot_token_id, *_tokenizer.encode(text), _tokenizer.eot_token_id]
        if len(ids) > context_length:
            if not truncate:
                raise RuntimeError(f"the text has {len(ids)} tokens, {context_length} are allowed: {text}")
            ids = [*ids[: context_length - 1], _tokenizer.eot_token_id]
        row[: len(ids)] = torch.tensor(ids)
    return result

"""Load a CLIP by name, and make tokens of texts."""

import hashlib
import os
import os.path as osp
from pathlib import Path

import torch
from open_clip.pretrained import download_pretrained_from_url, get_pretrained_url
from torchvision import transforms as T

import sotglp
from sotglp.backbones import OPENAI, SMALL
from sotglp.checkpoints import read_state
from sotglp.hub import announce
from sotglp.interface import PIXEL_MEAN, PIXEL_STD

from .model import build_model
from .simple_tokenizer import SimpleTokenizer

__all__ = ["available_models", "build_model", "load", "tokenize"]

_tokenizer = SimpleTokenizer()


class _Models(dict):
    """{name: address of the weights}; the path of a file is both name and address."""

    def __missing__(self, name):
        if osp.isfile(name):
            return name
        raise KeyError(f"unknown CLIP {name}: use {', '.join(self)}, or a file of weights")


_MODELS = _Models({name: get_pretrained_url(other, "openai") for name, other in OPENAI.items()} | {"small": str(SMALL)})


def available_models():
    """Return the names that `load` takes."""
    return list(_MODELS)


def _download(url, root=None):
    """Return the path of a file that `torch.load` or `torch.jit.load` reads.

    The file is in the cache, downloaded to it, or converted from safetensors.

    Args:
        url: Address, or path of a file.
        root: Folder of the cache; ~/.cache/clip if None.

    Raises:
        FileNotFoundError: The weights are not on this machine, and the download fails.
    """
    root = osp.expanduser(root or "~/.cache/clip")
    if osp.isfile(url):
        return _as_torch_file(url, root) if url.endswith(".safetensors") else url
    file = url.rsplit("/", 1)[-1]
    try:
        if not osp.isfile(osp.join(root, file)):
            announce([url], file)
        return download_pretrained_from_url(url, cache_dir=root)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{file} is not on this machine and cannot be downloaded: put it into {root}"
        ) from error


def _as_torch_file(path, root):
    """Convert a safetensors file to a file in the cache that torch.load reads, with all token embeddings."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    target = osp.join(root, f"{Path(path).stem}-{digest}.pt")
    if not osp.isfile(target):
        os.makedirs(root, exist_ok=True)
        partial = f"{target}.{os.getpid()}"
        torch.save({name: weight.half() for name, weight in sotglp.load_clip(path).state_dict().items()}, partial)
        os.replace(partial, target)
    return target


def load(name, device=None, jit=False, download_root=None):
    """Return a model and its preprocessing of PIL images.

    Args:
        name: A name of `available_models`, or the path of a file of weights.
        device: The torch device; a GPU if None and there is one.
        jit: Ignored, since the model is always a plain module.
        download_root: Folder of the cache; ~/.cache/clip if None.

    Returns:
        The model, in float32 on the CPU and in half precision elsewhere; a function of a PIL image.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(read_state(Path(_download(_MODELS[name], download_root)))).to(device)
    if torch.device(device).type == "cpu":
        model.float()
    return model, _transform(model.visual.input_resolution)


def _to_rgb(image):  # no lambda, which worker processes could not pickle
    return image.convert("RGB")


def _transform(size):
    return T.Compose(
        [
            T.Resize(size, T.InterpolationMode.BICUBIC),
            T.CenterCrop(size),
            _to_rgb,
            T.ToTensor(),
            T.Normalize(PIXEL_MEAN, PIXEL_STD),
        ]
    )


def tokenize(texts, context_length=77, truncate=False):
    """Return the token ids (B, context_length) of a text or of B texts, padded with 0.

    Start and end token are included.

    Args:
        texts: A text or a list of texts.
        context_length: Number of ids per text.
        truncate: Cut off the end of a text that is too long.

    Raises:
        RuntimeError: A text is too long, and `truncate` is False.
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

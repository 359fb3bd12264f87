"""Where CLIP's weights come from: the small CLIP in this package, a file, or open_clip's cache and download."""

import difflib
import io
import pickle
import zipfile
from pathlib import Path

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors.torch import load_file
from torch import nn

from sotglp.clip import CLIP, QuickGELU

SMALL = Path(__file__).parent / "weights" / "small_clip.safetensors"
# The field's names of OpenAI's vision transformers, and open_clip's.
OPENAI = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
# What a plain CLIP's open_clip configuration may say; anything else is another architecture.
PLAIN = {
    "": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # sizes and a buffer in state dicts
ALLOWED = f"{', '.join(['small', *OPENAI])}, a weights file, or open_clip's NAME:TAG (ViT-B-16:laion2b_s34b_b88k)"


def load_clip(name):
    """A frozen CLIP in float32.

    ``name`` is ``small`` (the CLIP in this package), one of OpenAI's vision transformers (``ViT-B/16``), a file
    (OpenAI's ``.pt``, as a JIT archive or a state dict, or ``.safetensors``), or any plain CLIP of open_clip's as
    ``NAME:TAG``. Raises ValueError for an unknown name, an unreadable file or another architecture, and
    FileNotFoundError where the weights are neither there nor to be downloaded.
    """
    if name == "small":
        return _from_file(SMALL)
    if name in OPENAI:
        return _from_open_clip(OPENAI[name], "openai", name)
    if Path(name).is_file():
        return _from_file(Path(name))
    if Path(name).suffix in (".pt", ".pth", ".bin", ".safetensors"):
        raise FileNotFoundError(f"no CLIP weights at {name}: give an existing file, or one of {ALLOWED}")
    if name.startswith("RN"):
        raise ValueError(f"backbone {name} is a ResNet, which has no patch tokens: take one of {ALLOWED}")
    architecture, _, tag = name.partition(":")
    if tag and architecture in open_clip.list_models():
        return _from_open_clip(architecture, tag, name)
    near = difflib.get_close_matches(name, ["small", *OPENAI, *open_clip.list_models()], n=3)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ValueError(f"unknown backbone {name!r}{hint}: take {ALLOWED}")


def _from_file(path, **options):
    state = read_state(path)
    ids = state.pop("token_ids", None)
    if ids is not None:  # a compact embedding: only the rows of the BPE pieces that pretraining saw
        rows = state["token_embedding.weight"]
        full = rows.new_zeros(len(open_clip.tokenizer.SimpleTokenizer().encoder), rows.shape[1])
        state["token_embedding.weight"] = full.index_copy(0, ids.long(), rows)
    try:
        clip = CLIP.from_state_dict(state, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    clip.known_tokens = None if ids is None else frozenset(ids.tolist())
    return clip


def read_state(path):
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            archive = read_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True) if archive is None else archive
        state = dict(state.get("state_dict", state))
        state = {key.removeprefix("module."): value for key, value in state.items()}
    except Exception as error:  # a damaged file can raise almost anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} is no readable CLIP checkpoint (.pt or .safetensors): {reason}") from error
    return {key: value for key, value in state.items() if key not in NO_WEIGHTS}


class ArchivedModule:
    """Stands for a module of a JIT archive: its attributes, and nothing that runs."""

    def __setstate__(self, state):
        self.__dict__.update(state)

    def tensors(self, prefix=""):
        """{name: tensor} as a state dict has them."""
        found = {}
        for name, value in vars(self).items():
            if isinstance(value, ArchivedModule):
                found |= value.tensors(f"{prefix}{name}.")
            elif isinstance(value, torch.Tensor):
                found[f"{prefix}{name}"] = value
        return found


class ArchiveUnpickler(pickle.Unpickler):
    """Reads the data of a JIT archive; refuses whatever is no module and no tensor."""

    def __init__(self, reader):
        super().__init__(io.BytesIO(reader.get_record("data.pkl")))
        self.reader, self.storages = reader, {}

    def find_class(self, module, name):
        if module.split(".")[0] == "__torch__":
            return ArchivedModule
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name)
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")):
            return super().find_class(module, name)
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list  # of numbers or tensors, which no weight is in
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which could run code")

    def persistent_load(self, pid):
        _, kind, key, _, count = pid
        if key not in self.storages:
            record = self.reader.get_storage_from_record(f"data/{key}", count, kind.dtype)
            storage = record._typed_storage()._untyped_storage
            self.storages[key] = torch.storage.TypedStorage(wrap_storage=storage, dtype=kind.dtype, _internal=True)
        return self.storages[key]


def read_archive(path):
    """The tensors of a JIT archive, as OpenAI publishes its weights; None if the file is none.

    torch.jit.load would run what the archive's modules do when they are made, which may write files.
    """
    if not zipfile.is_zipfile(path):
        return None
    reader = torch._C.PyTorchFileReader(str(path))
    if not reader.has_record("constants.pkl"):
        return None
    return ArchiveUnpickler(reader).load().tensors()


def _from_open_clip(architecture, tag, name):
    source = get_pretrained_cfg(architecture, tag)
    if not source:
        tags = ", ".join(list_pretrained_tags_by_model(architecture))
        raise ValueError(f"unknown weights {tag!r} of {architecture}: open_clip has {tags}")
    config = open_clip.get_model_config(architecture)
    for part, plain in PLAIN.items():
        extra = set(config[part] if part else config) - plain
        if extra or not isinstance(config["vision_cfg"].get("layers"), int):
            raise ValueError(f"backbone {name} is not a plain CLIP with a vision transformer: take {ALLOWED}")
    vision, text = config["vision_cfg"], config["text_cfg"]
    quick = config.get("quick_gelu", False) or source.get("quick_gelu", False)
    clip = _from_file(
        Path(_fetch(source, name)),
        vision_heads=vision["width"] // vision.get("head_width", 64),
        text_heads=text["heads"],
        act=QuickGELU if quick else nn.GELU,
    )
    clip.pixel_mean, clip.pixel_std = tuple(source["mean"]), tuple(source["std"])
    return clip


def cached_backbones():
    """OpenAI's names whose weights are on this machine."""
    folder = Path("~/.cache/clip").expanduser()
    sources = {name: get_pretrained_cfg(architecture, "openai") for name, architecture in OPENAI.items()}
    return [
        name
        for name, source in sources.items()
        if _cached_from_hub(source) or (folder / source["url"].rsplit("/", 1)[-1]).is_file()
    ]


def _cached_from_hub(source):
    hub, _, file = source.get("hf_hub", "").rpartition("/")
    for candidate in [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]:
        cached = try_to_load_from_cache(hub, candidate) if hub else None
        if isinstance(cached, str):
            return cached


def _fetch(source, name):
    """Path of the weights that open_clip calls ``source``: cached, or downloaded now."""
    cached = _cached_from_hub(source)
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

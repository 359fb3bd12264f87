"""Files of CLIP weights, read without running code that they may hold."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sotglp.clip import CLIP
from sotglp.tokens import bpe

NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # sizes and a buffer in state dicts


def from_file(path: Path, **options: Any) -> CLIP:
    """Return the CLIP of a weights file.

    Args:
        path: of the file.
        options: of ``CLIP.from_state_dict``.

    Raises:
        ValueError: the file cannot be read, or is not a plain CLIP with a vision transformer.
    """
    state = read_state(path)
    ids = state.pop("token_ids", None)
    if ids is not None:  # a compact embedding: only the rows of the BPE pieces that pretraining saw
        rows = state["token_embedding.weight"]
        full = rows.new_zeros(bpe().size, rows.shape[1])
        state["token_embedding.weight"] = full.index_copy(0, ids.long(), rows)
    try:
        clip = CLIP.from_state_dict(state, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    clip.known_tokens = None if ids is None else frozenset(ids.tolist())
    clip.weights_file = path
    return clip


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a weights file by OpenAI's names.

    Raises:
        ValueError: the file cannot be read.
    """
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
    """A module of a JIT archive, with its attributes but without its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return the tensors under the names that a state dict has."""
        found: dict[str, torch.Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, ArchivedModule):
                found |= value.tensors(f"{prefix}{name}.")
            elif isinstance(value, torch.Tensor):
                found[f"{prefix}{name}"] = value
        return found


class ArchiveUnpickler(pickle.Unpickler):
    """Reads the data of a JIT archive, and refuses all but modules and tensors.

    Args:
        reader: PyTorch's reader of the archive.
    """

    def __init__(self, reader: Any) -> None:
        super().__init__(io.BytesIO(reader.get_record("data.pkl")))
        self.reader = reader
        self.storages: dict[str, torch.storage.TypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the class of that name.

        Raises:
            pickle.UnpicklingError: it is not one of a few known ones.
        """
        if module.split(".")[0] == "__torch__":
            return ArchivedModule
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name)
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")):
            return super().find_class(module, name)
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list  # of numbers or tensors; no weight is in one
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> torch.storage.TypedStorage:
        """Return the numbers of a tensor."""
        _, kind, key, _, count = pid
        if key not in self.storages:
            record = self.reader.get_storage_from_record(f"data/{key}", count, kind.dtype)
            storage = record._typed_storage()._untyped_storage
            self.storages[key] = torch.storage.TypedStorage(wrap_storage=storage, dtype=kind.dtype, _internal=True)
        return self.storages[key]


def read_archive(path: Path) -> dict[str, torch.Tensor] | None:
    """Return the tensors of a JIT archive, OpenAI's format of published weights; None for another file.

    torch.jit.load would run code of the archive, which may write files.
    """
    if not zipfile.is_zipfile(path):
        return None
    reader: Any = torch._C.PyTorchFileReader(str(path))  # its declared type lacks methods
    if not reader.has_record("constants.pkl"):
        return None
    return ArchiveUnpickler(reader).load().tensors()

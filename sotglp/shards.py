"""Features of many images in shards: files of some images each, which are written whole or not at all and checked.

A folder holds the features of one list of images:

  index.json                         {"count": number of shards, "of": what the images are, null if a run made them}
  STREAM/00000-of-00007.safetensors  "features" of the shard's images
  STREAM/00000-of-00007.sha256       checksum of that file, as ``sha256sum -c`` reads it

STREAM is "class", or one of patch tokens. The files of "class" also have "images", which tell each image from all
others, and "remarks" about them; their metadata have the images' names and labels. A shard is there when its checksum
is, which is written last. So processes that write different shards need nothing of each other, and one that is killed
leaves nothing that looks whole.

Letters: n images of a shard, R kinds of remarks.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

INDEX = "index.json"
LIST = "list"  # key of a shard's metadata: its images' names and labels, as JSON
CLASS = "class"  # the stream of class tokens, which every shard has
SIZE = 1024  # images of a shard, if nothing else is said: with 196 patches of width 768 it has 0.3 GB in half precision


def identities(lines: Iterable[str]) -> np.ndarray:
    """Return 64 bits (n,) that tell images apart, from a line about each.

    Of lines that are equal, the first is another image than the second: they are views of one.
    """
    seen: Counter[str] = Counter()
    digests = []
    for line in lines:
        seen[line] += 1
        digests.append(hashlib.blake2b(os.fsencode(f"{line} {seen[line]}"), digest_size=8).digest())
    return np.frombuffer(b"".join(digests), np.int64)


class Shards:
    """The shards in a folder, read as one: nothing is copied but the rows that are asked for.

    Args:
        folder: of ``create``.

    Attributes:
        count: number of shards.
        of: what a person calls the images; None if a run made them for itself.

    Raises:
        OSError, ValueError: the folder holds no shards.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / INDEX
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            self.count, self.of = int(index["count"]), index["of"]
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, and what made it makes it again") from error
        self._open: dict[tuple[str, int], dict[str, torch.Tensor]] = {}

    @classmethod
    def create(cls, folder: str | Path, count: int, of: str | None = None) -> "Shards":
        """Return the shards of a folder, which are as many as when it was made, or now ``count``."""
        path = Path(folder, INDEX)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = cls(folder) if path.exists() else None
        if known is None or (known.of is None and of is not None):
            with whole(path) as file:
                file.write(json.dumps({"count": known.count if known else count, "of": of}).encode())
        clean(path)
        return cls(folder)

    def path(self, stream: str, number: int) -> Path:
        """Return the path of a shard's features; its checksum stands beside it."""
        return self.folder / stream / f"{number:05d}-of-{self.count:05d}.safetensors"

    def holds(self, stream: str, number: int, every_byte: bool = False) -> bool:
        """Return whether a shard is there; a damaged one is reported and deleted.

        Args:
            stream: of the features.
            number: of the shard.
            every_byte: compare the file's SHA-256; otherwise only its length and its header are checked.
        """
        path = self.path(stream, number)
        checksum = path.with_suffix(".sha256")
        if not checksum.exists():
            return False
        try:
            if every_byte and checksum.read_bytes() != checksum_of(path):
                raise ValueError("its SHA-256 differs")
            with safe_open(path, "pt"):
                return True
        except (FileNotFoundError, ValueError, SafetensorError) as error:
            print(f"{path} is damaged ({error}) and deleted: its images are encoded again")
            checksum.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            return False

    def missing(self, streams: Iterable[str], numbers: Iterable[int], every_byte: bool = False) -> list[int]:
        """Return the numbers of those shards that lack a stream; arguments as for ``holds``."""
        streams = list(streams)
        return [number for number in numbers if not all([self.holds(x, number, every_byte) for x in streams])]

    def write(
        self,
        number: int,
        features: Mapping[str, torch.Tensor],
        images: np.ndarray,
        remarks: torch.Tensor,
        names: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        """Write a shard; streams that are there stay as they are.

        Args:
            number: of the shard.
            features: {stream: (n, ...)}.
            images: (n,) of ``identities``.
            remarks: (n, R) bool.
            names: of the images.
            labels: of the images.
        """
        # One key: safetensors writes several in an order that changes from process to process.
        metadata = {LIST: json.dumps({"images": list(names), "labels": list(labels)})}
        for stream, values in features.items():
            path = self.path(stream, number)
            checksum = path.with_suffix(".sha256")
            if checksum.exists():
                continue
            path.parent.mkdir(exist_ok=True)
            more = {"images": torch.from_numpy(images), "remarks": remarks} if stream == CLASS else {}
            with whole(path) as file:
                file.write(save({"features": values.contiguous(), **more}, metadata if more else None))
            clean(path)
            with whole(checksum) as file:
                file.write(checksum_of(path))

    def tensors(self, stream: str, number: int) -> dict[str, torch.Tensor]:
        """Return what the file of a shard holds, by name; a page is read from the disk when it is used."""
        if (stream, number) not in self._open:
            with safe_open(self.path(stream, number), "pt") as file:
                self._open[stream, number] = {name: file.get_tensor(name) for name in file.keys()}
        return self._open[stream, number]

    def facts(self, number: int) -> tuple[list[str], list[int]]:
        """Return the names and the labels of a shard's images."""
        with safe_open(self.path(CLASS, number), "pt") as file:
            facts = json.loads(file.metadata()[LIST])
        return facts["images"], facts["labels"]

    def find(self, images: np.ndarray) -> np.ndarray | None:
        """Return where images of ``identities`` are: (n, 2) of shard and row in it; None if one is in no shard."""
        known = [self.tensors(CLASS, number)["images"].numpy() for number in range(self.count)]
        numbers = np.repeat(np.arange(self.count), [len(part) for part in known])
        rows = np.concatenate([np.arange(len(part)) for part in known])
        all_known = np.concatenate(known)
        order = all_known.argsort(kind="stable")
        at = order[np.searchsorted(all_known, images, sorter=order) % len(order)]
        if (all_known[at] != images).any():
            return None
        return np.stack([numbers[at], rows[at]], axis=1)

    def take(self, stream: str, places: np.ndarray, name: str = "features") -> torch.Tensor:
        """Return features, or another tensor, of the images at places (b, 2) of ``find``, in their order."""
        numbers, rows = torch.from_numpy(places).unbind(dim=1)
        parts = {number: self.tensors(stream, number)[name] for number in numbers.unique().tolist()}
        some = next(iter(parts.values()))
        taken = some.new_empty(len(places), *some.shape[1:])
        for number, part in parts.items():
            chosen = numbers == number
            taken[chosen] = part[rows[chosen]]
        return taken


def checksum_of(path: Path) -> bytes:
    """Return the line that ``sha256sum`` prints of a file in its folder."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return f"{digest.hexdigest()}  {path.name}\n".encode()


def clean(path: Path) -> None:
    """Remove what processes that were killed left of a file, now that it is whole."""
    for partial in path.parent.glob(f"{path.stem}.*.partial"):
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when the block ends and all of it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):  # another process has written the same, and cleaned up
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

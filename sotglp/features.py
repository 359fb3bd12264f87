"""Features of the frozen image tower, encoded once and kept in shards for all runs that read the same images.

Letters: b images of a batch, P patches, W width of the image tower.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import DataLoader
from tqdm import tqdm

from sotglp import parallel
from sotglp.shards import CLASS, SIZE, Shards, identities
from sotglp.stored import StoredTower

LAYOUT = 3  # version of the files, part of their key


class Images(Protocol):
    """Images to encode, in parts that become shards."""

    def batches(self, numbers: Iterable[int]) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Yield (number of a shard, batch), and (number, None) after its last batch.

        A batch has "img", "impath", "label", "images" (``identities``) and "remarks", in the same order each time, and
        its own "size".
        """

    def size(self, numbers: Iterable[int]) -> int:
        """Return the sum of the sizes of all batches of some shards, exactly or nearly."""


class ListedImages:
    """The images of a toolbox's loader, in a given number of shards of equal size.

    Args:
        loader: of test images, whose batches have "img", "index", "impath" and "label".
        images: (n,) of ``identities``.
        count: number of shards.
    """

    def __init__(self, loader: Any, images: np.ndarray, count: int) -> None:
        self.loader, self.images, self.count = loader, images, count

    def rows(self, number: int) -> range:
        """Return the indices of a shard's images."""
        n = len(self.images)
        return range(number * n // self.count, (number + 1) * n // self.count)

    def size(self, numbers: Iterable[int]) -> int:
        return sum(len(self.rows(number)) for number in numbers)

    def batches(self, numbers: Iterable[int]) -> Iterator[tuple[int, dict[str, Any] | None]]:
        loader, step = self.loader, self.loader.batch_size
        cut = [(number, self.rows(number)) for number in numbers]  # a batch is of one shard
        plan = [(number, rows[i : i + step]) for number, rows in cut for i in range(0, len(rows), step)]
        read = DataLoader(
            loader.dataset,
            batch_sampler=[list(rows) for _, rows in plan],
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
        )
        for (number, rows), batch in zip(plan, read, strict=True):
            if batch is not None:  # all of its images are unreadable
                at = batch["index"]
                more = {"images": self.images[at.numpy()], "remarks": loader.dataset.remarks[at], "size": len(rows)}
                yield number, {**batch, **more}
            if rows[-1] == self.rows(number)[-1]:
                yield number, None


def describe(tower: StoredTower, pixels: Any, half: bool) -> str:
    """Return 16 letters that name all that the features of an image depend on.

    Args:
        tower: that encodes it.
        pixels: how its pixels are made.
        half: whether float16 is kept.
    """
    versions = tuple(importlib.metadata.version(name) for name in ("torch", "torchvision", "pillow"))
    device = tower.proj.device.type
    bfloat16 = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    facts = LAYOUT, versions, half, bfloat16, device, tower.name, pixels
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def pixels_of(dataset: Any) -> tuple[Any, ...]:
    """Return how a toolbox's dataset makes pixels of a file."""
    return dataset.transform, dataset.cfg.DATALOADER.REDUCED_JPEG, dataset.how


def files(paths: Iterable[str]) -> np.ndarray:
    """Return ``identities`` (n,) of images in files, which change when a file changes."""

    def line(path: str) -> str:
        file = os.stat(path)
        return f"{os.path.abspath(path)} {file.st_size} {file.st_mtime_ns}"

    return identities(map(line, paths))


def name_of(images: np.ndarray) -> str:
    """Return the name of the folder of a list of images of ``identities``."""
    return hashlib.sha256(images.tobytes()).hexdigest()[:16]


@torch.inference_mode()
def encode(
    images: Images,
    numbers: Iterable[int],
    shards: Shards,
    tower: StoredTower,
    streams: Collection[str],
    half: bool,
    progress: Callable[[int, int, int], Any],
) -> None:
    """Encode images and write their shards. While one is written, the next is encoded.

    Args:
        images: to encode.
        numbers: of the shards.
        shards: where they are written.
        tower: that encodes.
        streams: of patch tokens, beside the class tokens.
        half: keep float16.
        progress: is told of each batch the number of images, its size and the bytes of the features.

    Raises:
        OSError: a shard cannot be written.
    """
    parts: dict[int, list[dict[str, Any]]] = defaultdict(list)
    dtype = torch.float16 if half else torch.float32
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(lambda: None)
        for number, batch in images.batches(numbers):
            if batch is None:
                written.result()  # so that no more than two shards are in memory
                written = writer.submit(write, shards, number, parts.pop(number, []))
                continue
            class_token, patches = tower.encode_images(batch.pop("img").to(tower.proj.device), streams)
            features = {CLASS: class_token, **dict(sorted(patches.items()))}
            features = {name: values.to(dtype).cpu() for name, values in features.items()}
            parts[number].append({**batch, "features": features})
            progress(len(class_token), batch["size"], sum(values.nbytes for values in features.values()))
        written.result()


def write(shards: Shards, number: int, parts: list[dict[str, Any]]) -> None:
    """Write the shard of a number, whose batches are given in their order.

    Raises:
        OSError: it cannot be written, or none of its images can be read.
    """
    if not parts:
        raise OSError(f"none of the images of shard {number} can be read")
    features = {name: torch.cat([part["features"][name] for part in parts]) for name in parts[0]["features"]}
    names = [name for part in parts for name in part["impath"]]
    labels = [label for part in parts for label in part["label"].tolist()]
    images, remarks = np.concatenate([part["images"] for part in parts]), torch.cat([part["remarks"] for part in parts])
    shards.write(number, features, images, remarks, names, labels)


class EncodedImages:
    """Batches of features in the place of a loader's batches of images.

    The loader's images are encoded now, unless a run did so before with the same weights, pixels and file list, or
    ``scripts.encode`` with a list that has them all. The class tokens are the same for all streams of patch tokens.

    Iterating gives {"features": (class tokens (b, W), patch tokens (b, P, W) or None), "label": (b,), "impath": paths},
    in the order of the loader's data source.

    Args:
        loader: of a test set, whose batches have "img" and "index".
        tower: that encodes the images, if they are not found.
        local: the stream of patch tokens, or None.
        folder: of all such files.
        half: keep float16, which is enough if autocast rounds the features before they are used.
        streams: further ones that other runs will read; they are encoded in the same pass.
        seed: of random transforms.

    Raises:
        OSError: the folder cannot be written, or has not twice the room that the features take.
    """

    def __init__(
        self,
        loader: Any,
        tower: StoredTower,
        local: str | None,
        folder: str | Path,
        half: bool = False,
        streams: Collection[str] = (),
        seed: int | None = None,
    ) -> None:
        dataset = loader.dataset
        self.batch_size = loader.batch_size
        self.labels = torch.tensor([item.label for item in dataset.data_source])
        self.impaths = [item.impath for item in dataset.data_source]
        self.images = files(self.impaths)
        self.half, self.local, self.seed = half, local, seed
        self.read = [CLASS] if self.local is None else [CLASS, self.local]
        place = Path(folder, self.key(dataset, tower), name_of(self.images))
        with parallel.failing_together():
            found = self.whole_store(place) if parallel.is_first() else None
        found = parallel.agree(found)
        if found is None:
            further = [stream for stream in streams if stream in tower.streams]
            self.encode(place, loader, tower, {*self.read[1:], *further})
        with parallel.failing_together():  # machines may not share the folder
            self.shards = Shards(found or place)
            places = self.shards.find(self.images)
            if places is None:
                raise OSError(f"{self.shards.folder} lacks images that could not be read: delete it to read them again")
            self.places = places
            dataset.remarks |= self.shards.take(CLASS, places, "remarks")  # of the run that encoded them

    def key(self, dataset: Any, tower: StoredTower) -> str:
        """Return 16 letters that name all that the features of an image depend on."""
        return describe(tower, (*pixels_of(dataset), self.seed), self.half)

    def whole_store(self, place: Path) -> Path | None:
        """Return the folder of shards to read: this place, or one of ``scripts.encode``; None if there is none.

        Views of other lists were drawn for these, so they are not read.
        """
        others = [] if self.seed is not None else sorted(path.parent for path in place.parent.glob("*/index.json"))
        for folder in (place, *(other for other in others if other != place)):
            try:
                shards = Shards(folder)
            except (FileNotFoundError, ValueError):
                continue
            if folder != place and shards.of is None:
                continue  # of another run: results must not depend on which runs there were before
            if not shards.missing(self.read, range(shards.count)) and shards.find(self.images) is not None:
                return folder
        return None

    def encode(self, place: Path, loader: Any, tower: StoredTower, streams: Collection[str]) -> None:
        """Write the shards that are missing; each process writes its share of them.

        The random numbers that the run draws later stay the same. Those of a shard's transforms depend on nothing else.
        """
        n = len(self.images)
        with contextlib.ExitStack() as stack:
            with parallel.failing_together():
                missing: tuple[int, list[int]] = 0, []
                if parallel.is_first():
                    stack.enter_context(locked(place))
                    shards = Shards.create(place, min(max(-(-n // SIZE), parallel.size()), n))
                    missing = shards.count, shards.missing([CLASS, *streams], range(shards.count), True)
            count, numbers = parallel.agree(missing)
            images, own = ListedImages(loader, self.images, count), numbers[parallel.rank() :: parallel.size()]
            with tqdm(total=images.size(own), desc="encode", leave=False, disable=None) as bar:

                def progress(n_images: int, size: int, n_bytes: int) -> None:
                    if not bar.n:
                        check_room(place, 2 * images.size(numbers) * n_bytes // n_images)
                    bar.update(size)

                with parallel.failing_together():
                    shards = Shards(place)
                    for part in [own] if self.seed is None else [[number] for number in own]:
                        with seeded((self.seed or 0) + 7919 * (part or [0])[0]):
                            encode(images, part, shards, tower, streams, self.half, progress)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self.labels), self.batch_size):
            stop = min(start + self.batch_size, len(self.labels))
            yield {**self.batch(np.arange(start, stop)), "impath": self.impaths[start:stop]}

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the features and labels of some rows, given by an array of indices."""
        features = {name: self.shards.take(name, self.places[rows]) for name in self.read}
        patches = None if self.local is None else features[self.local]
        return {"features": (features[CLASS], patches), "label": self.labels[rows]}


def check_room(folder: Path, size: int) -> None:
    """Check that a folder has room for so many bytes.

    Raises:
        OSError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f"{folder} has {free / 2**30:.1f} GiB free, and features need {size / 2**30:.1f}")


class EncodedBatches(EncodedImages):
    """Training batches of images without augmentation: those of the loader, drawn with the same random numbers.

    Args:
        sampler: of the loader's images, which gives indices.
        loader: of training images.
        arguments, more: further arguments of EncodedImages.
    """

    def __init__(self, sampler: torch.utils.data.Sampler, loader: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(loader, *arguments, **more)
        self.dataset = loader.dataset
        size = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        indices: Any = range(len(self.labels))
        self.rows: Any = DataLoader(indices, sampler=sampler, collate_fn=np.array, **size)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.batch, iter(self.rows))


class EncodedViews(EncodedImages):
    """Training batches, with one of several augmented views of each image, drawn anew every time.

    Args:
        batches: a BatchSampler of the images.
        n_views: of each image.
        loader: as in EncodedImages; it has all images ``n_views`` times over.
        arguments, more: further arguments of EncodedImages.
    """

    def __init__(
        self, batches: torch.utils.data.BatchSampler, n_views: int, loader: Any, *arguments: Any, **more: Any
    ) -> None:
        super().__init__(loader, *arguments, **more)
        self.dataset, self.batches, self.n_views = loader.dataset, batches, n_views

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        n_images = len(self.labels) // self.n_views
        for rows in self.batches:
            views = torch.randint(self.n_views, (len(rows),))
            yield self.batch((torch.tensor(rows) + n_images * views).numpy())


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers that transforms draw in the block, and restore the generators after it."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a folder, and let one process at a time into the block; if that process dies, the next one enters."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        yield

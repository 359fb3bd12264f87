"""Features of the frozen image tower, encoded once and kept in files for all runs that read the same images.

Letters: b images of a batch, P patches, W width of the image tower.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import random
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sotglp import parallel
from sotglp.interface import ImageEncoder
from sotglp.prompted import PromptedCLIP

LAYOUT = 1  # version of the files, part of their key
REMARKS = "remarks.npy"  # what was remarked about the images when they were read
CLASS = "class"  # name of the file of class tokens; a file of patch tokens has the name of its stream


class EncodedImages:
    """Batches of features in the place of a loader's batches of images.

    The loader's images are encoded now, unless a run did so before with the same weights, pixels and file list. Each
    stream of patch tokens is a file of its own; the class tokens are the same for all streams.

    Iterating gives {"features": (class tokens (b, W), patch tokens (b, P, W) or None), "label": (b,), "impath": paths},
    in the order of the loader's data source.

    Args:
        loader: of a test set, whose batches have "img" and "index".
        model: with frozen images.
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
        model: PromptedCLIP,
        folder: str | Path,
        half: bool = False,
        streams: Collection[str] = (),
        seed: int | None = None,
    ) -> None:
        dataset = loader.dataset
        self.batch_size = loader.batch_size
        self.labels = torch.tensor([item.label for item in dataset.data_source])
        self.impaths = [item.impath for item in dataset.data_source]
        self.dtype = np.dtype(np.float16 if half else np.float32)
        self.local, self.seed = model.local, seed
        place = Path(folder) / self.key(dataset, model)
        read = [CLASS] if self.local is None else [CLASS, self.local]
        further = [stream for stream in streams if stream in model.clip.visual.streams]
        self.paths = {name: place / f"{name}.npy" for name in dict.fromkeys([*read, *further])}
        with contextlib.ExitStack() as stack:
            with parallel.failing_together():
                if parallel.is_first():
                    stack.enter_context(locked(place))
            if parallel.agree(not all(self.readable(path) for path in self.paths.values())):
                self.encode(loader, model.clip.visual)
                with parallel.failing_together():
                    if parallel.is_first():
                        np.save(place / REMARKS, dataset.remarks.numpy())
        with parallel.failing_together():  # machines may not share the folder
            self.arrays = {name: np.load(self.paths[name], mmap_mode="r") for name in read}
            dataset.remarks |= torch.from_numpy(np.load(place / REMARKS))  # of the run that encoded them

    def key(self, dataset: Any, model: PromptedCLIP) -> str:
        """Return 16 letters that name all that the features depend on."""
        visual = model.clip.visual
        versions = tuple(importlib.metadata.version(name) for name in ("torch", "torchvision", "pillow"))
        reduced = dataset.cfg.DATALOADER.REDUCED_JPEG
        pixels = dataset.transform, reduced, dataset.how, self.seed
        facts = LAYOUT, versions, self.dtype, visual.proj.device.type, visual, visual.settings, pixels
        digest = hashlib.sha256(repr(facts).encode())
        device = visual.proj.device.type
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
            digest.update(b"bfloat16")  # otherwise the files' type tells the precision
        for weights in visual.state_dict().values():
            digest.update(weights.cpu().contiguous().numpy().data)
        for item in dataset.data_source:
            file = os.stat(item.impath)
            digest.update(f"{os.path.abspath(item.impath)} {file.st_size} {file.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]

    def readable(self, path: Path) -> bool:
        """Return whether a file exists and has the features of all images."""
        try:
            return len(np.load(path, mmap_mode="r")) == len(self.labels)
        except FileNotFoundError:
            return False
        except (ValueError, EOFError) as error:
            print(f"{path} is damaged ({error}): its images are encoded again")
            return False

    @torch.no_grad()
    def encode(self, loader: Any, tower: ImageEncoder) -> None:
        """Write the files without changing the random numbers that the run draws later."""
        with seeded(self.seed or 0):
            self.write(loader, tower)

    def write(self, loader: Any, tower: ImageEncoder) -> None:
        """Write the files; a file gets its name when it is whole.

        Each process encodes its share of a batch, and the first one writes.
        """
        arrays: dict[str, np.memmap] = {}
        try:
            for batch in tqdm(loader, desc="encode", leave=False, disable=None):
                features = self.features_of(batch["img"], tower)
                with parallel.failing_together():
                    for name, values in features.items() if parallel.is_first() else ():
                        if name not in arrays:
                            arrays[name] = self.new_array(name, values.shape[1:])
                        arrays[name][batch["index"].numpy()] = values.float().cpu().numpy()
            with parallel.failing_together():
                for name, array in arrays.items():
                    array.flush()
                    os.replace(self.partial(name), self.paths[name])
        finally:
            if parallel.is_first():
                for name in self.paths:
                    self.partial(name).unlink(missing_ok=True)

    def features_of(self, images: torch.Tensor, tower: ImageEncoder) -> dict[str, torch.Tensor]:
        """Return {name of a file: the features of images that it holds}."""
        n_images, (start, stop) = len(images), parallel.share(len(images))
        own = images[start:stop] if start < stop else images[:1]  # a process without images encodes one for nothing
        class_token, patches = tower.encode_images(own.to(tower.proj.device), self.paths.keys() - {CLASS})
        features = {CLASS: class_token, **dict(sorted(patches.items()))}
        return {name: parallel.gather(values[: stop - start], n_images) for name, values in features.items()}

    def new_array(self, name: str, of_one: Sequence[int]) -> np.memmap:
        """Create the file of that name, for all images, with its disk space reserved.

        Args:
            name: of the file.
            of_one: shape of one image's features.

        Raises:
            OSError: the disk has not twice the room.
        """
        shape = (len(self.labels), *of_one)
        size = int(np.prod(shape)) * self.dtype.itemsize
        if shutil.disk_usage(self.partial(name).parent).free < 2 * size:
            raise OSError(f"the features take {size / 2**30:.1f} GiB, and twice that is not free")
        array = np.lib.format.open_memmap(self.partial(name), "w+", self.dtype, shape)
        with open(self.partial(name), "rb+") as file:  # a mapped page without room on the disk would kill the process
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return array

    def partial(self, name: str) -> Path:
        """Return the path of a file while it is written."""
        return self.paths[name].with_suffix(".partial")

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self.labels), self.batch_size):
            stop = min(start + self.batch_size, len(self.labels))
            yield {**self.batch(np.arange(start, stop)), "impath": self.impaths[start:stop]}

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the features and labels of some rows, given by an array of indices."""
        features = {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}
        patches = None if self.local is None else features[self.local]
        return {"features": (features[CLASS], patches), "label": self.labels[rows]}


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
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Images in the tar shards of a WebDataset, read in order: an archive of any size needs no list of its images."""

import glob
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePath
from typing import Any

import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info
from webdataset.shardlists import expand_urls
from yacs.config import CfgNode

from dassl.data.data_manager import reading
from dassl.utils import UserError, read_image
from dassl.utils.images import REMARKS, Member
from sotglp.shards import identities


def tars_of(pattern: str) -> list[str]:
    """Return the paths that a pattern such as "shards/{000..009}.tar" or "shards/*.tar" stands for.

    Raises:
        UserError: one is no file.
    """
    paths = [path for word in expand_urls(pattern) for path in sorted(glob.glob(word)) or [word]]
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(f"there is no file {path}: give tar files, as shards/{{000..009}}.tar or shards/*.tar")
    return paths


def as_it_is(item: Any) -> Any:
    return item


class TarImages(IterableDataset):
    """The images of tar files, each of which is a shard. A worker process reads whole files.

    A label is the number in a sample's ``cls``, -1 without one. Samples without an image are left out, and with
    DATALOADER.ON_ERROR "skip" those whose image is unreadable.

    Args:
        cfg: how images are read.
        tars: paths of the files.
        transform: of an image, a function of a PIL image.
    """

    def __init__(self, cfg: CfgNode, tars: list[str], transform: Any) -> None:
        Image.init()
        self.cfg, self.tars, self.transform = cfg, tars, transform
        self.how, self.kinds = reading(cfg), frozenset(Image.registered_extensions())
        self.numbers: list[int] = []

    @property
    def pixels(self) -> tuple[Any, ...]:
        """How pixels are made, as ``sotglp.features.pixels_of`` says of the toolbox's data sets."""
        return self.transform, False, self.how

    def size(self, numbers: Iterable[int]) -> int:
        """Return the bytes of some tar files, which are a little more than those of their samples."""
        return sum(os.path.getsize(self.tars[number]) for number in numbers)

    def batches(self, numbers: Iterable[int]) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Yield batches as ``sotglp.features.Images`` does; the number of a shard is that of its file."""
        self.numbers = list(numbers)
        workers = min(self.cfg.DATALOADER.NUM_WORKERS, len(self.numbers))
        cuda = self.cfg.USE_CUDA and torch.cuda.is_available()
        yield from DataLoader(self, batch_size=None, num_workers=workers, collate_fn=as_it_is, pin_memory=cuda)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        worker, size = get_worker_info(), self.cfg.DATALOADER.TEST.BATCH_SIZE
        for number in self.numbers[worker.id :: worker.num_workers] if worker else self.numbers:
            items = self.items(self.tars[number])
            while batch := list(islice(items, size)):
                sizes, lines = zip(*((item.pop("size"), item.pop("line")) for item in batch), strict=True)
                yield number, {**default_collate(batch), "images": identities(lines), "size": sum(sizes)}
            yield number, None

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield {"img", "impath", "label", "remarks", "size", "line"} of the images in a tar file.

        Raises:
            UserError: the file or an image is damaged.
        """
        status = os.stat(path)
        archive = f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
        for sample in samples(path):
            suffixes = [key for key in sample if PurePath(f"image.{key}").suffix in self.kinds]
            for suffix in suffixes[:1]:
                impath, remarks = f"{path}/{sample['__key__']}.{suffix}", set[str]()
                try:
                    image = read_image(Member(sample[suffix], impath), remarks=remarks, **self.how)
                except UserError as error:
                    if self.cfg.DATALOADER.ON_ERROR != "skip":
                        raise
                    print(f"skipped: {error}", file=sys.stderr)
                    continue
                label = sample.get("cls", b"").decode("ascii", "replace").strip()
                yield {
                    "img": self.transform(image),
                    "impath": impath,
                    "label": int(label) if label.isdecimal() else -1,
                    "remarks": torch.tensor([key in remarks for key in REMARKS]),
                    "size": sum(len(value) for value in sample.values() if isinstance(value, bytes)),
                    "line": f"{archive} {sample['__key__']}.{suffix}",
                }


def samples(path: str) -> Iterator[dict[str, Any]]:
    """Yield the samples of a tar file: {"__key__": name, suffix: bytes}.

    Raises:
        UserError: the file is damaged.
    """
    try:
        yield from webdataset.DataPipeline(webdataset.SimpleShardList([path]), webdataset.tarfile_to_samples())
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error.args[0] if error.args else error}") from error

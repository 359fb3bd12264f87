"""An image tower that stays in its file while kept features (``sotglp.features``) stand in for images."""

import hashlib
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sotglp.interface import ImageEncoder
from sotglp.shards import checksum_of


class StoredTower(ImageEncoder):
    """An image tower that is loaded when it encodes an image, or when one of its parts is asked for.

    Args:
        tower: of which the sizes and the last map are kept; its other weights may be on the device "meta".
        file: of its weights.
        load: returns the tower, frozen and on the CPU.

    Attributes:
        opened: whether parts of the tower were asked for, which can be changed then.
    """

    def __init__(self, tower: ImageEncoder, file: Path, load: Callable[[], ImageEncoder]) -> None:
        super().__init__()
        self.streams, self.image_size, self.n_patches = tower.streams, tower.image_size, tower.n_patches
        self.settings, self.shape, self.file, self.load, self.opened = tower.settings, repr(tower), file, load, False
        self.register_buffer("proj", tower.proj.detach().clone(), persistent=False)
        self.register_buffer("bias", None if tower.bias is None else tower.bias.detach().clone(), persistent=False)
        self.eval()
        self.parts = frozenset(dir(tower)).difference(dir(self))

    @cached_property
    def name(self) -> str:
        """Names all that the features of pixels depend on: the file of the weights, and what is made of them."""
        digest = hashlib.sha256(checksum_of(self.file).split()[0])
        digest.update(repr((self.shape, self.settings, self.image_size)).encode())
        return digest.hexdigest()

    @property
    def loaded(self) -> ImageEncoder:
        """The tower, loaded now if it was not. The random numbers that a run draws later stay the same."""
        if "tower" not in self._modules:
            device = self.proj.device
            # A parameter that is made in inference mode could never be learned.
            with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.random.fork_rng(devices=[]):
                self.tower = self.load().to(device).train(self.training)
        return self._modules["tower"]  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Any:
        """Return a part of the tower, such as its blocks."""
        if name not in self.__dict__.get("parts", ()):
            return super().__getattr__(name)
        self.opened = True
        return getattr(self.loaded, name)

    def encode_images(
        self, images: torch.Tensor, streams: Collection[str] = ()
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.loaded.encode_images(images, streams)

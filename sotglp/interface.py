"""What methods use of a CLIP, whatever its towers are: the one interface of all backbones.

Letters: B images, P patches, C classes, M prompts of a class, L text positions, S pixels of an image's side, W width of
a tower, D joint dimension.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sotglp import parallel
from sotglp.memory import give_back
from sotglp.tokens import Tokenizer, bpe

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# Where patch tokens come from: value-value attention beside the standard stream (CLIP-Surgery); the standard stream;
# the standard stream with the last block's values in place of its attention (MaskCLIP, arXiv 2112.01071).
STREAMS = ("vv", "last", "value")

# Pooled tokens (B, W), and patch tokens (B, P, W) if they are read.
ImageFeatures = tuple[torch.Tensor, torch.Tensor | None]

# embed(classes, places, first): embeddings (M, ..., W), without positions, of places (...) in the prompts of classes
# (...); no place is before ``first``.
Embed = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


class ImageEncoder(nn.Module):
    """An image tower: images (B, 3, S, S) to a pooled token each and, on request, the patch tokens of a stream.

    Tokens (..., W) stand before the last linear map, which ``to_joint`` is.

    Attributes:
        image_size: S.
        n_patches: P, 0 without patch tokens.
        streams: of patch tokens that it has.
        proj: (W, D) of the last map.
        bias: (D,) of it, None without.
        settings: what the features depend on beside the weights and what the module prints.
    """

    streams: Collection[str] = STREAMS
    image_size: int
    n_patches: int
    proj: torch.Tensor
    bias: torch.Tensor | None
    settings: Any

    def forward(self, images: torch.Tensor, local: str | None = "vv") -> ImageFeatures:
        """Encode images (B, 3, S, S).

        Args:
            images: resized and normalised as in pretraining.
            local: the stream of the patch tokens, one of STREAMS, or None.

        Returns:
            Pooled tokens (B, W) and patch tokens (B, P, W), None without ``local``; both before the last linear map.

        Raises:
            ValueError: a stream that this tower lacks, or images of another size.
        """
        self.check_stream(local)
        pooled, patches = self.encode_images(images, () if local is None else (local,))
        return pooled, None if local is None else patches[local]

    def encode_images(
        self, images: torch.Tensor, streams: Collection[str] = ()
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what ``forward`` does, for any number of streams in one pass: (B, W) and {stream: (B, P, W)}."""
        raise NotImplementedError

    def to_joint(self, tokens: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
        """Return tokens (..., W) as features (..., D), not normalised, after a matrix (W, W) if there is a first."""
        matrix = self.proj
        if first is not None:
            matrix = first.T @ matrix  # the two matrices first: there are more tokens than rows
        joint = tokens @ matrix
        return joint if self.bias is None else joint + self.bias

    def resize(self, image_size: int) -> None:
        """Take images of another size from now on: positional embeddings are interpolated.

        Raises:
            ValueError: patches do not tile such an image, or the tower has no such embeddings.
        """
        raise NotImplementedError

    def check_stream(self, local: str | None) -> None:
        """Check that the tower has a stream of patch tokens, or none is asked for.

        Raises:
            ValueError: it lacks it.
        """
        if local is not None and not self.streams:
            raise ValueError(
                "this backbone has no patch tokens, which the method reads: take a backbone with a vision transformer, "
                "or a method of whole images, such as CoOp"
            )
        if local not in (None, *self.streams):
            raise ValueError(f"the patch tokens are of the stream {', '.join(STREAMS)}, or None, not {local!r}")

    def check_size(self, images: torch.Tensor) -> None:
        """Check that images (B, 3, H, W) have the tower's size.

        Raises:
            ValueError: they have not.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            raise ValueError(f"images are {tuple(images.shape[-2:])} pixels, but this CLIP takes {size}")


class Backbone(nn.Module):
    """An image tower, a text tower that takes embeddings, and the scale of their cosines.

    Args:
        visual: the image tower.

    Attributes:
        token_embedding: of the text tower.
        context_length: L, with all that the tokenizer adds to a text.
        logit_scale: () logarithm of the factor of the cosines.
        logit_bias: () added to the scaled cosines (SigLIP, arXiv 2303.15343), None without. It is the same for all
            classes, so no softmax over them depends on it.
        pixel_mean, pixel_std: that pixels were normalised with in pretraining, for red, green and blue.
        known_tokens: ids seen in pretraining; None if all.
        weights_file: path of the file that the weights come from; None if they come from none.
        long_names: what a class name without room in the context does: "stop" or "truncate".
        memory_budget: bytes that the text tower may keep for the backward pass.
    """

    visual: ImageEncoder
    token_embedding: nn.Embedding
    logit_scale: nn.Parameter
    logit_bias: torch.Tensor | None

    def __init__(self, visual: ImageEncoder) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("logit_bias", None)
        self.pixel_mean, self.pixel_std = PIXEL_MEAN, PIXEL_STD
        self.known_tokens: frozenset[int] | None = None
        self.weights_file: Path | None = None
        self.long_names = "stop"
        self.memory_budget: float = math.inf

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Makes ids of texts. CLIP's byte-pair encoding, unless another one is set."""
        return bpe()

    @property
    def context_length(self) -> int:
        raise NotImplementedError

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.visual.proj.shape[1]

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return CLIP's image features, before normalisation: square images (B, 3, H, H) -> (B, D)."""
        return self.visual.to_joint(self.visual(images, local=None)[0])

    def encode_text(self, token_ids: torch.Tensor, apart: bool = False) -> torch.Tensor:
        """Return CLIP's text features, before normalisation: ids (B, L) -> (B, D).

        Args:
            token_ids: of ``sotglp.prompts.tokenize``.
            apart: as in ``encode_prompts``.
        """
        raise NotImplementedError

    def encode_prompts(
        self,
        embed: Embed,
        eot: torch.Tensor,
        n_prompts: int = 1,
        shared: int = 0,
        deep: Mapping[int, torch.Tensor] | None = None,
        apart: bool = False,
    ) -> torch.Tensor:
        """Return text features (C, M, D), before normalisation, of M prompts of each of C classes.

        Args:
            embed: gives the embeddings, see Embed.
            eot: (C,) position of the last token, the EOT.
            n_prompts: M.
            shared: how many first positions are alike in all classes.
            deep: {block: (n, W) or (C, n, W)} tokens that take the places after the SOT before a block.
            apart: give each prompt a row of its own, for blocks that draw random numbers, such as a dropout's.
        """
        raise NotImplementedError

    def in_parts(
        self, run: Callable[[int, int], torch.Tensor], n: int, cost: float, random: bool = False
    ) -> torch.Tensor:
        """Return run(0, n) (M, n, ...), which several processes share out.

        If the backward pass would keep more than ``memory_budget`` bytes, run is called for parts, and the backward
        pass runs each part again.

        Args:
            run: (start, stop) -> (M, stop - start, ...).
            n: number of rows.
            cost: bytes that the backward pass keeps of a row.
            random: whether run draws random numbers.
        """
        first, last = parallel.share(n)
        size = int(min(self.memory_budget / cost, n))
        if torch.is_grad_enabled() and size < n:
            run = partial(checkpoint, partial(self.run_part, run), use_reentrant=False, preserve_rng_state=random)
        size = max(size, 1)
        starts = range(first, last, size) or [0]  # a process without rows runs one for nothing
        parts = [run(i, min(i + size, max(last, 1))) for i in starts]
        return parallel.gather(torch.cat(parts, dim=1)[:, : last - first], n, dim=1)

    def run_part(self, run: Callable[[int, int], torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return run(start, stop), after giving back the memory of the part before."""
        if self.token_embedding.weight.device.type == "cpu":
            give_back()
        return run(start, stop)

    def check_pixels(self, size: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
        """Check that images are resized and normalised as in this CLIP's pretraining.

        Args:
            size: height and width in pixels.
            mean, std: for red, green and blue.

        Raises:
            ValueError: they are not.
        """
        pretrained = ((self.visual.image_size,) * 2, self.pixel_mean, self.pixel_std)
        for key, got, ours in zip(("SIZE", "PIXEL_MEAN", "PIXEL_STD"), (size, mean, std), pretrained, strict=True):
            if len(got) != len(ours) or any(abs(a - b) > 1e-3 for a, b in zip(got, ours, strict=True)):
                raise ValueError(f"INPUT.{key} is {tuple(got)}, but this CLIP was pretrained with {tuple(ours)}")


def check_tiles(image_size: int, patch_size: int) -> None:
    """Check that patches tile an image.

    Raises:
        ValueError: they do not.
    """
    if image_size < patch_size or image_size % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not tile images of {image_size}: take a multiple of it")

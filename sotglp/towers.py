"""CLIP's two transformer towers (Radford et al., arXiv 2103.00020).

In one pass the image tower gives the class token and one token per patch. Patch tokens come from value-value attention
(CLIP-Surgery, arXiv 2304.05653) or from another stream. Parameters carry OpenAI's names.

Letters: B images, P patches, L positions, Q queries, W width of a tower, D joint dimension.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sotglp.interface import ImageEncoder, check_tiles


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation of GELU that OpenAI's checkpoints were trained with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(1.702 * x) / 1.702  # the same, but the backward pass keeps one tensor instead of two


class Attention(nn.Module):
    """Multi-head attention whose projections can be used one by one (parameters as in ``nn.MultiheadAttention``)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def project(self, x: torch.Tensor, queries: torch.Tensor) -> list[torch.Tensor]:
        """Return the queries of ``queries`` (B, Q, W), and the keys and the values of ``x`` (B, L, W).

        Returns:
            Three tensors: (B, heads, Q, W/heads), and twice (B, heads, L, W/heads).
        """
        w_q, w_kv = self.in_proj_weight.tensor_split([x.shape[-1]])
        b_q, b_kv = self.in_proj_bias.tensor_split([x.shape[-1]])
        q = F.linear(queries, w_q, b_q)
        k, v = F.linear(x, w_kv, b_kv).chunk(2, dim=-1)
        return [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)]

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **mask: Any) -> torch.Tensor:
        """Return softmax(q k^T / sqrt(W/heads)) v of each head, through the output projection: (B, Q, W).

        Args:
            mask: of ``scaled_dot_product_attention``, ``attn_mask`` or ``is_causal``.
        """
        return self.merge(F.scaled_dot_product_attention(q, k, v, **mask))

    def merge(self, heads: torch.Tensor) -> torch.Tensor:
        """Apply the output projection to what the heads hold: (B, heads, Q, W/heads) -> (B, Q, W)."""
        return self.out_proj(heads.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm residual block. Its caller composes the stages, since the towers read different parts of it."""

    def __init__(self, width: int, heads: int, mlp_width: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, mlp_width), gelu=act(), c_proj=nn.Linear(mlp_width, width))
        )

    def add_mlp(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The residual blocks of a tower."""

    resblocks: Sequence[Block]

    def __init__(self, width: int, layers: int, heads: int, mlp_width: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        blocks = nn.ModuleList(Block(width, heads, mlp_width, act) for _ in range(layers))
        self.resblocks = blocks  # type: ignore[assignment]  # a ModuleList does not declare the type of its items


class ImageTower(ImageEncoder):
    """OpenAI's vision transformer. The pooled token is the class token; tokens come after ln_post, before proj."""

    bias = None

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        mlp_width: int,
        embed_dim: int,
        act: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((image_size // patch_size) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, mlp_width, act)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    @property
    def n_patches(self) -> int:  # type: ignore[override]
        """P."""
        return len(self.positional_embedding) - 1

    @property
    def settings(self) -> list[int]:
        """The heads of each block."""
        return [block.attn.heads for block in self.transformer.resblocks]

    def encode_images(
        self, images: torch.Tensor, streams: Collection[str] = ()
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.encode(self.embed(images), streams)

    def resize(self, image_size: int) -> None:
        patch, old = self.conv1.stride[0], round(self.n_patches**0.5)
        check_tiles(image_size, patch)
        new, learns = image_size // patch, self.positional_embedding.requires_grad
        class_token, grid = self.positional_embedding.detach().tensor_split([1])
        grid = grid.T.unflatten(-1, (old, old))[None]
        # As open_clip does.
        grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
        embedding = torch.cat([class_token, grid[0].flatten(1).T])
        self.image_size, self.positional_embedding = image_size, nn.Parameter(embedding, requires_grad=learns)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return tokens (B, 1 + P, W): the class token and the patches, with their positions.

        Raises:
            ValueError: images of another size than the positional embeddings'.
        """
        self.check_size(images)
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(images.shape[0], 1, -1)  # len() would fix the number in an export
        return torch.cat([class_token, patches], dim=1) + self.positional_embedding

    def encode(
        self, tokens: torch.Tensor, streams: Collection[str] = (), deep: Mapping[int, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Run the blocks on embedded tokens (B, 1 + P, W), once for all streams.

        The V-V stream r stands beside the standard one x and never changes it: r gains softmax(v v^T) v of each block
        and passes no MLP. In the first block r starts from x plus the standard attention, as in the authors'
        implementation. r has no class token, since nothing reads it.

        Args:
            tokens: of ``embed``; with ``deep``, followed by n prompts.
            streams: of the patch tokens.
            deep: {block: prompts (n, W)} that take the last n places before a block. Without ``streams`` only.

        Returns:
            Class tokens (B, W) and {stream: patch tokens (B, P, W)}.
        """
        x = self.ln_pre(tokens)
        patches: dict[str, torch.Tensor] = {}
        blocks = self.transformer.resblocks
        for i, block in enumerate(blocks):
            first, last = i == 0, i == len(blocks) - 1
            # Of the last block only the class token is read, unless the patches take its standard attention.
            rows = slice(0, 1) if last and "last" not in streams and not (first and "vv" in streams) else slice(None)
            if deep and i in deep:
                x = put(x, deep[i], x.shape[1] - deep[i].shape[-2])
            h = block.ln_1(x)
            q, k, v = block.attn.project(h, h[:, rows])
            standard = block.attn.attend(q, k, v)
            if "vv" in streams:
                vv = block.attn.attend(v[:, :, 1:], v, v)
                patches["vv"] = x[:, 1:] + standard[:, 1:] + vv if first else patches["vv"] + vv
            if "value" in streams and last:
                patches["value"] = block.add_mlp(x[:, 1:] + block.attn.merge(v[:, :, 1:]))
            x = block.add_mlp(x[:, rows] + standard)
        if "last" in streams:
            patches["last"] = x[:, 1:]
        return self.ln_post(x[:, 0]), {stream: self.ln_post(tokens) for stream, tokens in patches.items()}


def put(x: torch.Tensor, tokens: torch.Tensor, start: int) -> torch.Tensor:
    """Return x (B, L, W) with tokens (n, W) or (B, n, W) in the places from ``start`` on."""
    tokens = tokens.to(x.dtype).expand(len(x), *tokens.shape[-2:])
    return torch.cat([x[:, :start], tokens, x[:, start + tokens.shape[1] :]], dim=1)

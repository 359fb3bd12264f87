"""Vision transformers of timm with patch tokens: EVA02, SigLIP, PE-Core and their kind.

Letters: B images, P patches, L positions, W width of the tower, D joint dimension.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.layers import Attention, AttentionPoolLatent, AttentionRope
from timm.models import eva, vision_transformer
from torch import nn

from sotglp.interface import ImageEncoder, check_tiles

PASSIVE = (nn.Linear, nn.Identity, nn.Dropout)  # parts of a head that ``TimmTower`` allows behind the pooling


class TimmTower(ImageEncoder):
    """A vision transformer of timm.

    The streams of patch tokens are those of ``ImageTower``. What is our definition:

    - V-V attention is softmax(v v^T / sqrt(d)) v with the values as they are. Rotary embeddings turn only queries and
      keys, so V-V attention has none. What a block does to its attention's output, it does to this one's: norm,
      output projection, layer scale.
    - If the head pools tokens by attention, a patch token is what the head gives if it attends to that patch alone:
      the patch's value, the head's output projection, and the head's MLP.

    Args:
        tower: open_clip's, one that ``is_readable``.
    """

    def __init__(self, tower: TimmModel) -> None:
        super().__init__()
        self.tower = tower
        if self.last_map is None:
            self.register_buffer("identity", torch.eye(tower.trunk.num_features), persistent=False)

    @property
    def last_map(self) -> nn.Linear | None:
        """The linear map of pooled tokens, if there is one."""
        return next((part for part in head_parts(self.tower) if isinstance(part, nn.Linear)), None)

    @property
    def proj(self) -> torch.Tensor:  # type: ignore[override]
        return self.get_buffer("identity") if self.last_map is None else self.last_map.weight.T

    @property
    def bias(self) -> torch.Tensor | None:  # type: ignore[override]
        return None if self.last_map is None else self.last_map.bias

    @property
    def image_size(self) -> int:  # type: ignore[override]
        return self.tower.trunk.patch_embed.img_size[0]

    @property
    def n_patches(self) -> int:  # type: ignore[override]
        return self.tower.trunk.patch_embed.num_patches

    @property
    def settings(self) -> Any:
        """The heads and the rotary embeddings."""
        rope = getattr(self.tower.trunk, "rope", None)
        return [block.attn.num_heads for block in self.tower.trunk.blocks], rope and sorted(
            (key, value) for key, value in vars(rope).items() if isinstance(value, (int, float, str, tuple, list))
        )

    def encode_images(
        self, images: torch.Tensor, streams: Collection[str] = ()
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.check_size(images)
        trunk = self.tower.trunk
        x, rotation = trunk.patch_embed(images), {}
        x = trunk._pos_embed(x)  # what of the trunk's forward pass comes between patches and blocks
        if isinstance(x, tuple):
            x, rotation = x[0], {"rope": x[1]}
        x, start = trunk.norm_pre(x), trunk.num_prefix_tokens
        patches: dict[str, torch.Tensor] = {}
        for i, block in enumerate(trunk.blocks):
            h = block.norm1(x)
            standard = scale(block, 1, block.attn(h, **rotation))
            if "vv" in streams:
                v = values(block.attn, h)
                vv = scale(block, 1, merge(block.attn, F.scaled_dot_product_attention(v[:, :, start:], v, v)))
                patches["vv"] = x[:, start:] + standard[:, start:] + vv if i == 0 else patches["vv"] + vv
            if "value" in streams and i == len(trunk.blocks) - 1:
                v = scale(block, 1, merge(block.attn, values(block.attn, h)[:, :, start:]))
                patches["value"] = add_mlp(block, x[:, start:] + v)
            x = add_mlp(block, x + standard)
        if "last" in streams:
            patches["last"] = x[:, start:]
        pooled = trunk.forward_head(trunk.norm(x), pre_logits=True)
        return pooled, {stream: self.head_alone(trunk.norm(tokens)) for stream, tokens in patches.items()}

    def head_alone(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the head makes of each token (..., W) alone, before its last linear map."""
        pool = self.tower.trunk.attn_pool
        if pool is not None:
            weight, bias = pool.kv.weight.chunk(2)[1], pool.kv.bias.chunk(2)[1]
            tokens = pool.proj(F.linear(tokens, weight, bias))
            tokens = tokens + pool.mlp(pool.norm(tokens))
        return self.tower.trunk.fc_norm(tokens)

    def resize(self, image_size: int) -> None:
        check_tiles(image_size, self.tower.trunk.patch_embed.patch_size[0])
        self.tower.set_input_size(image_size)


def is_readable(tower: TimmModel) -> bool:
    """Return whether the blocks and the head of a tower of timm have the parts that ``TimmTower`` reads."""
    trunk = tower.trunk
    if type(trunk) not in (eva.Eva, vision_transformer.VisionTransformer) or getattr(trunk, "rope_mixed", False):
        return False
    attentions = [block.attn for block in trunk.blocks]
    blocks = all(type(block) in (eva.EvaBlock, vision_transformer.Block) for block in trunk.blocks)
    blocks &= all(type(a) in (eva.EvaAttention, Attention, AttentionRope) and a.gate is None for a in attentions)
    blocks &= all(getattr(a, "num_kv_groups", 1) == 1 for a in attentions)
    pool = trunk.attn_pool
    pools = trunk.global_pool in ("token", "avg") if pool is None else type(pool) is AttentionPoolLatent
    return blocks and pools and all(isinstance(part, PASSIVE) for part in head_parts(tower))


def head_parts(tower: TimmModel) -> list[nn.Module]:
    """Return what a tower of timm does to its pooled tokens."""
    return [tower.trunk.head, *tower.head]


def scale(block: nn.Module, which: int, x: torch.Tensor) -> torch.Tensor:
    """Apply the layer scale of a block, of its attention (1) or its MLP (2), if it has one."""
    if isinstance(block, eva.EvaBlock):
        gamma: Any = getattr(block, f"gamma_{which}")
        return x if gamma is None else gamma * x
    return getattr(block, f"ls{which}")(x)


def add_mlp(block: Any, x: torch.Tensor) -> torch.Tensor:
    return x + scale(block, 2, block.mlp(block.norm2(x)))


def values(attention: Any, h: torch.Tensor) -> torch.Tensor:
    """Return the values (B, heads, L, W/heads) of tokens (B, L, W), whether or not they are fused with the rest."""
    if attention.qkv is None:
        v = attention.v_proj(h)
    else:
        bias = getattr(attention, "v_bias", None)
        if attention.qkv.bias is not None:
            bias = attention.qkv.bias.chunk(3)[2]
        v = F.linear(h, attention.qkv.weight.chunk(3)[2], bias)
    return v.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def merge(attention: Any, heads: torch.Tensor) -> torch.Tensor:
    """Apply an attention's norm and output projection to what the heads hold: (B, heads, L, W/heads) -> (B, L, W)."""
    return attention.proj(attention.norm(heads.transpose(1, 2).flatten(2)))

"""Models of open_clip behind the interface of ours (``sotglp.interface``): what is not of OpenAI's architecture.

Import this module only where it is used: open_clip imports torchvision and timm, which take seconds.

Letters: B images, P patches, C classes, M prompts of a class, L positions, W width of a tower, D joint dimension.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from open_clip import transformer as of_open_clip
from open_clip.timm_model import TimmModel
from torch import nn

from sotglp.clip import CausalCLIP
from sotglp.interface import Backbone, Embed, ImageEncoder
from sotglp.timm_towers import TimmTower, is_readable
from sotglp.towers import ImageTower, QuickGELU


class PooledTower(ImageEncoder):
    """Any image tower, without patch tokens. Its pooled token is the image's feature: W is D.

    Args:
        tower: open_clip's.
        embed_dim: D.
    """

    streams = ()
    n_patches = 0
    bias = None
    settings = None

    def __init__(self, tower: nn.Module, embed_dim: int) -> None:
        super().__init__()
        self.tower = tower
        size: Any = tower.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        self.register_buffer("proj", torch.eye(embed_dim), persistent=False)

    def encode_images(
        self, images: torch.Tensor, streams: Collection[str] = ()
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.check_size(images)
        return self.tower(images), {}

    def resize(self, image_size: int) -> None:
        raise ValueError("this backbone has no positional embeddings to interpolate: take its own size of images")


class OpenCLIP(Backbone):
    """A text tower of open_clip, of which every position is run: its attention is not causal, or pools a padding.

    Args:
        visual: the image tower.
        text: the text tower.
    """

    def __init__(self, visual: ImageEncoder, text: of_open_clip.TextTransformer) -> None:
        super().__init__(visual)
        self.text = text
        self.logit_scale = nn.Parameter(torch.empty(()))

    @property
    def token_embedding(self) -> nn.Embedding:  # type: ignore[override]
        return self.text.token_embedding

    @property
    def context_length(self) -> int:
        return self.text.context_length

    def encode_text(self, token_ids: torch.Tensor, apart: bool = False) -> torch.Tensor:
        return self.text(token_ids)

    def encode_prompts(
        self,
        embed: Embed,
        eot: torch.Tensor,
        n_prompts: int = 1,
        shared: int = 0,
        deep: Mapping[int, torch.Tensor] | None = None,
        apart: bool = False,
    ) -> torch.Tensor:
        eot = eot.to(self.token_embedding.weight.device)

        def run(start: int, stop: int) -> torch.Tensor:
            return self.run_classes(embed, eot, start, stop)

        blocks = self.text.transformer.resblocks
        width, mlp = self.text.width, blocks[0].mlp.c_fc.out_features
        cost = n_prompts * self.context_length * len(blocks) * (8 * width + mlp) * 4  # as ``CausalCLIP`` counts
        return self.in_parts(run, len(eot), cost, random=apart).transpose(0, 1)

    def run_classes(self, embed: Embed, eot: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return text features (M, stop - start, D) of some classes.

        Args:
            embed: see Embed.
            eot: (C,) of all classes.
            start, stop: first class, and the one after the last.
        """
        text, device = self.text, eot.device
        places = torch.arange(int(eot.max()) + 1, device=device)
        classes, places = torch.meshgrid(torch.arange(start, stop, device=device), places, indexing="ij")
        x = embed(classes, places, 0)  # (M, classes, places, W)
        padding = self.token_embedding.weight[self.tokenizer.padding]
        x = torch.where((places <= eot[classes])[..., None], x, padding)
        rest = padding.expand(*x.shape[:2], self.context_length - x.shape[2], -1)
        x, n_prompts = torch.cat([x, rest], dim=2).flatten(0, 1) + text.positional_embedding, len(x)
        x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask))
        rows = torch.arange(len(x), device=device)
        at = {"last": -1, "first": 0}.get(text.pool_type, eot[classes[:, 0]].repeat(n_prompts))
        pooled, project = x[rows, at], text.text_projection
        joint = project(pooled) if isinstance(project, nn.Linear) else pooled if project is None else pooled @ project
        return joint.unflatten(0, (n_prompts, -1))


def wrap(model: Any, embed_dim: int) -> Backbone:
    """Return open_clip's CustomTextCLIP with D joint dimensions as a backbone, frozen and in evaluation mode."""
    text, visual = model.text, wrap_image_tower(model.visual, embed_dim)
    clip: Backbone
    if is_causal(text):
        block = text.transformer.resblocks[0]
        with torch.device("meta"):
            clip = CausalCLIP(
                visual,
                embed_dim,
                text.width,
                len(text.transformer.resblocks),
                text.context_length,
                text.vocab_size,
                block.attn.num_heads,
                block.mlp.c_fc.out_features,
                activation(block),
                text.eos_id if text.pool_type == "eos" else None,
            )
        clip.load_state_dict(text.state_dict(), strict=False, assign=True)
    else:
        clip = OpenCLIP(visual, text)
    clip.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(()).clone())
    if model.logit_bias is not None:
        clip.logit_bias = model.logit_bias.detach().reshape(()).clone()
    return clip.requires_grad_(False).eval()


def wrap_image_tower(tower: nn.Module, embed_dim: int) -> ImageEncoder:
    """Return an image tower of open_clip as one of ours: with patch tokens if we know what they are."""
    if isinstance(tower, TimmModel) and is_readable(tower):
        return TimmTower(tower)
    if isinstance(tower, of_open_clip.VisionTransformer) and is_openai(tower):
        block = tower.transformer.resblocks[0]
        with torch.device("meta"):
            ours = ImageTower(
                tower.image_size[0],
                tower.patch_size[0],
                tower.transformer.width,
                len(tower.transformer.resblocks),
                block.attn.num_heads,
                block.mlp.c_fc.out_features,
                embed_dim,
                activation(block),
            )
        ours.load_state_dict(tower.state_dict(), assign=True)
        return ours
    return PooledTower(tower, embed_dim)


def is_openai(tower: Any) -> bool:
    """Return whether an image tower of open_clip is of OpenAI's architecture."""
    pooled = tower.attn_pool is None and tower.pool_type == "tok" and not tower.final_ln_after_pool
    return pooled and isinstance(tower.ln_pre, nn.LayerNorm) and has_openai_blocks(tower.transformer, tower.ln_post)


def is_causal(text: Any) -> bool:
    """Return whether a text tower of open_clip is ours: causal, pooled at the EOT, with OpenAI's blocks."""
    pooled = text.pool_type in ("argmax", "eos") and text.attn_mask is not None and text.cls_emb is None
    projected = isinstance(text.text_projection, nn.Parameter)
    return pooled and projected and has_openai_blocks(text.transformer, text.ln_final)


def has_openai_blocks(transformer: Any, norm: nn.LayerNorm) -> bool:
    """Return whether a transformer of open_clip has OpenAI's blocks, with the norm that follows them."""
    return norm.eps == nn.LayerNorm(1).eps and all(
        type(block) is of_open_clip.ResidualAttentionBlock
        and isinstance(block.ls_1, nn.Identity)
        and (
            isinstance(block.mlp.gelu, of_open_clip.QuickGELU)
            or (isinstance(block.mlp.gelu, nn.GELU) and block.mlp.gelu.approximate == "none")
        )
        for block in transformer.resblocks
    )


def activation(block: Any) -> Callable[[], nn.Module]:
    """Return the activation of a block that ``has_openai_blocks`` allows."""
    return QuickGELU if isinstance(block.mlp.gelu, of_open_clip.QuickGELU) else nn.GELU

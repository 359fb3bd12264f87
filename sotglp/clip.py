"""CLIP: both towers (``sotglp.towers``) and its text.

The text tower takes embeddings, so that learned contexts can stand where words would. It is causal, so most positions
need not be run. Parameters carry OpenAI's names: ``state_dict`` is an OpenAI checkpoint.

Letters: B images, C classes, M prompts of a class, L text positions, S first positions that all classes share, R rows
of packed prompts, E prompts in a row, W width of a tower, D joint dimension.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sotglp.interface import Backbone, Embed, ImageEncoder
from sotglp.packing import Rows, pack
from sotglp.towers import ImageTower, QuickGELU, Transformer, put


class CausalCLIP(Backbone):
    """Any image tower with OpenAI's text tower, whose attention is causal.

    Args:
        visual: the image tower.
        embed_dim: D.
        text_width, text_layers, context_length, vocab_size, text_heads, text_mlp, act: of the text tower.
        eot_id: of the EOT; None if no id is larger.
    """

    def __init__(
        self,
        visual: ImageEncoder,
        embed_dim: int,
        text_width: int,
        text_layers: int,
        context_length: int = 77,
        vocab_size: int = 49408,
        text_heads: int | None = None,
        text_mlp: int | None = None,
        act: Callable[[], nn.Module] = QuickGELU,
        eot_id: int | None = None,
    ) -> None:
        super().__init__(visual)
        self.eot_id = eot_id
        self.token_embedding = nn.Embedding(vocab_size, text_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, text_width))
        self.transformer = Transformer(
            text_width, text_layers, text_heads or max(text_width // 64, 1), text_mlp or 4 * text_width, act
        )
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.empty(text_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    @property
    def context_length(self) -> int:
        return len(self.positional_embedding)

    def encode_text(self, token_ids: torch.Tensor, apart: bool = False) -> torch.Tensor:
        """Return CLIP's text features, before normalisation: BPE ids (B, L) -> (B, D).

        Args:
            token_ids: from SOT to EOT, then anything.
            apart: as in ``encode_prompts``.
        """
        eot = (token_ids if self.eot_id is None else (token_ids == self.eot_id).int()).argmax(dim=-1)
        alike = (token_ids == token_ids[0]).all(dim=0).cumprod(dim=0).sum()
        shared = 0 if apart else int(torch.minimum(alike, eot.min()))

        def embed(classes: torch.Tensor, places: torch.Tensor, first: int) -> torch.Tensor:
            return self.token_embedding(token_ids[classes, places])[None]

        return self.encode_prompts(embed, eot, shared=shared, apart=apart)[:, 0]

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

        Attention is causal, so most of the C M L positions can be left out without changing the result. Positions after
        an EOT are not run. Positions that classes share are run once for each of the M prompts. The last block is run
        at the EOTs only. The rest is packed into rows of several prompts, which several processes share out. If the
        backward pass would keep more than ``memory_budget`` bytes, the rows go in parts, and the backward pass runs
        each part again.

        Args:
            embed: gives the embeddings, see Embed.
            eot: (C,) position of the EOT.
            n_prompts: M.
            shared: S, how many first positions are alike in all classes.
            deep: {block: (n, W) or (C, n, W)} tokens that take the places after the SOT before a block.
            apart: give each prompt a row of its own, for blocks that draw random numbers, such as a dropout's.
        """
        deep, device = deep or {}, self.positional_embedding.device
        if not all(tokens.dim() == 2 and len(tokens) < shared for tokens in deep.values()):
            shared = min(shared, 1)  # classes do not share the tokens' places
        rows = pack(tuple((eot + 1 - shared).tolist()), shared, device, apart)
        places = torch.arange(shared, device=device)
        past = self.run_shared(embed(0 * places, places, 0), deep if shared > 1 else {}) if shared else None
        deep = {} if shared > 1 else {i: t.expand(len(eot), *t.shape[-2:]) for i, t in deep.items()}
        n_rows, width = rows.classes.shape

        def run(start: int, stop: int) -> torch.Tensor:
            return self.run_rows(embed, past, rows.part(start, stop), shared, deep)

        features = self.in_parts(run, n_rows, self.bytes_per_position() * width * n_prompts, random=apart)
        return features.flatten(1, 2)[:, rows.order].transpose(0, 1)

    def run_shared(self, x: torch.Tensor, deep: Mapping[int, torch.Tensor]) -> list[list[torch.Tensor]]:
        """Return each block's keys and values (M, heads, S, W/heads) of the shared first positions (M, S, W)."""
        past, blocks = [], self.transformer.resblocks
        x = x + self.positional_embedding[: x.shape[1]]
        for i, block in enumerate(blocks):
            x = put(x, deep[i], 1) if i in deep else x
            h = block.ln_1(x)
            q, *kept = block.attn.project(h, h)
            past.append(kept)
            if i < len(blocks) - 1:
                x = block.add_mlp(x + block.attn.attend(q, *kept, is_causal=True))
        return past

    def run_rows(
        self,
        embed: Embed,
        past: list[list[torch.Tensor]] | None,
        rows: Rows,
        shared: int,
        deep: Mapping[int, torch.Tensor],
    ) -> torch.Tensor:
        """Return the text features (M, R, E, D) at the E EOTs of R packed rows.

        Args:
            embed: see Embed.
            past: what ``run_shared`` returned for the positions before.
            rows: where prompts stand.
            shared: S.
            deep: {block: (C, n, W)} tokens after the SOT.
        """
        x = embed(rows.classes, rows.places, shared) + self.positional_embedding[rows.places]  # (M, R, L, W)
        blocks, (n_prompts, n_rows) = self.transformer.resblocks, x.shape[:2]
        x, visible = x.flatten(0, 1), rows.visible.repeat(n_prompts, 1, 1, 1)
        ends = torch.arange(len(x), device=x.device)[:, None], rows.ends.repeat(n_prompts, 1)
        for i, block in enumerate(blocks):
            if i in deep:
                at = rows.places - 1  # after the SOT
                tokens = deep[i][rows.classes, at.clamp(0, deep[i].shape[1] - 1)].to(x.dtype)
                here = ((at >= 0) & (at < deep[i].shape[1]))[..., None]
                x = torch.where(here, tokens, x.unflatten(0, (n_prompts, n_rows))).flatten(0, 1)
            h = block.ln_1(x)
            if i == len(blocks) - 1:
                x, queries, visible = x[ends], h[ends], visible[ends[0], :, ends[1]].transpose(1, 2)
            else:
                queries = h
            q, *own = block.attn.project(h, queries)
            if past:
                own = [torch.cat([p.repeat_interleave(n_rows, 0), o], 2) for p, o in zip(past[i], own, strict=True)]
            x = block.add_mlp(x + block.attn.attend(q, *own, attn_mask=visible))
        return (self.ln_final(x) @ self.text_projection).unflatten(0, (n_prompts, n_rows))

    def bytes_per_position(self) -> int:
        """Return how many bytes the text tower's backward pass keeps of one position, with frozen weights.

        Of each block it keeps the inputs of two norms, queries, keys, values, attention's output and the MLP's inner
        layer.
        """
        width = self.text_projection.shape[0]
        mlp = len(self.transformer.resblocks[0].mlp.get_parameter("c_fc.weight"))
        return len(self.transformer.resblocks) * (8 * width + mlp) * self.text_projection.element_size()


class CLIP(CausalCLIP):
    """Both towers of OpenAI's architecture.

    Heads default to one per 64 channels, the MLP to four times the width: OpenAI's rule.
    """

    visual: ImageTower

    def __init__(
        self,
        embed_dim: int,
        image_size: int,
        patch_size: int,
        vision_width: int,
        vision_layers: int,
        text_width: int,
        text_layers: int,
        context_length: int = 77,
        vocab_size: int = 49408,
        vision_heads: int | None = None,
        text_heads: int | None = None,
        vision_mlp: int | None = None,
        text_mlp: int | None = None,
        act: Callable[[], nn.Module] = QuickGELU,
    ) -> None:
        visual = ImageTower(
            image_size,
            patch_size,
            vision_width,
            vision_layers,
            vision_heads or max(vision_width // 64, 1),
            vision_mlp or 4 * vision_width,
            embed_dim,
            act,
        )
        super().__init__(
            visual, embed_dim, text_width, text_layers, context_length, vocab_size, text_heads, text_mlp, act
        )
        self.init_weights()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor], images: bool = True, **options: Any) -> "CLIP":
        """Return the CLIP of a state dict in OpenAI's format, in float32, frozen and in evaluation mode.

        Args:
            state: whose shapes give the sizes.
            images: False leaves the image tower, but for its last map, on the device "meta": without its numbers.
            options: what shapes do not show: heads and activation.

        Raises:
            ValueError: the state dict is not that of a plain CLIP with a vision transformer.
        """
        try:
            conv, width = state["visual.conv1.weight"], state["visual.class_embedding"].shape[0]
            sizes = dict(
                embed_dim=state["text_projection"].shape[1],
                image_size=round((len(state["visual.positional_embedding"]) - 1) ** 0.5) * conv.shape[-1],
                patch_size=conv.shape[-1],
                vision_width=width,
                vision_layers=count_children(state, "visual.transformer.resblocks."),
                text_width=state["token_embedding.weight"].shape[1],
                text_layers=count_children(state, "transformer.resblocks."),
                context_length=len(state["positional_embedding"]),
                vocab_size=len(state["token_embedding.weight"]),
                vision_mlp=len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
                text_mlp=len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
            )
            with torch.device("meta"):
                clip = cls(**sizes, **options)
            left = () if images else {k for k in state if k.startswith("visual.") and k != "visual.proj"}
            weights = {k: v.to("meta" if k in left else "cpu", torch.float32) for k, v in state.items()}
            clip.load_state_dict(weights, assign=True)
        except (KeyError, RuntimeError) as error:
            what = "a ResNet" if "visual.layer1.0.conv1.weight" in state else str(error).splitlines()[-1].strip()
            raise ValueError(
                f"these weights are not a plain CLIP with a vision transformer ({what}): "
                "patch features need one, such as ViT-B/16"
            ) from error
        return clip.requires_grad_(False).eval()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw weights at the scales that CLIP's pretraining starts from."""
        for tower in (self.visual.transformer, self.transformer):
            width, layers = tower.resblocks[0].ln_1.weight.shape[0], len(tower.resblocks)
            for block in tower.resblocks:
                block.attn.in_proj_weight.normal_(std=width**-0.5)
                block.attn.out_proj.weight.normal_(std=width**-0.5 * (2 * layers) ** -0.5)
                block.mlp.get_parameter("c_fc.weight").normal_(std=(2 * width) ** -0.5)
                block.mlp.get_parameter("c_proj.weight").normal_(std=width**-0.5 * (2 * layers) ** -0.5)
        for parameter in (self.visual.class_embedding, self.visual.positional_embedding, self.visual.proj):
            parameter.normal_(std=len(self.visual.class_embedding) ** -0.5)
        self.token_embedding.weight.normal_(std=0.02)
        self.positional_embedding.normal_(std=0.01)
        self.text_projection.normal_(std=len(self.text_projection) ** -0.5)
        self.logit_scale.fill_(1 / 0.07).log_()


def count_children(state: Mapping[str, Any], prefix: str) -> int:
    """Return how many names follow a prefix in the keys of a state dict: the blocks of a tower."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

"""CLIP's two transformer towers (Radford et al., arXiv 2103.00020), with what local prompt learning asks of them.

The image tower gives the class token and, beside it, one token per patch, from value-value attention
(CLIP-Surgery, arXiv 2304.05653) or another stream, in the same pass. The text tower takes embeddings, so that learned
contexts can stand where words would. Parameters carry OpenAI's names: ``state_dict`` is an OpenAI checkpoint.

Letters: B images, P patches, L text positions, W width of a tower, D joint dimension.
"""

import math
from collections import OrderedDict
from functools import lru_cache, partial
from heapq import heappop, heappush
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from sotglp import parallel
from sotglp.memory import give_back

# Where patch tokens come from: value-value attention beside the standard stream (CLIP-Surgery); the standard stream;
# the standard stream with the last block's values in place of its attention (MaskCLIP, arXiv 2112.01071).
STREAMS = ("vv", "last", "value")
ROW = 64  # positions of a row of prompts, about: attention to other prompts' positions is cheap
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation of GELU that OpenAI's checkpoints were trained with."""

    def forward(self, x):
        return F.silu(1.702 * x) / 1.702  # the same, but the backward pass keeps one tensor instead of two


class Attention(nn.Module):
    """Multi-head attention whose projections can be used one by one (parameters as in ``nn.MultiheadAttention``)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def project(self, x, queries):
        """Queries (B, heads, Q, W/heads) of ``queries`` (B, Q, W); keys and values of ``x`` (B, L, W) alike."""
        w_q, w_kv = self.in_proj_weight.tensor_split([x.shape[-1]])
        b_q, b_kv = self.in_proj_bias.tensor_split([x.shape[-1]])
        q = F.linear(queries, w_q, b_q)
        k, v = F.linear(x, w_kv, b_kv).chunk(2, dim=-1)
        return [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)]

    def attend(self, q, k, v, **mask):
        """softmax(q k^T / sqrt(W/heads)) v per head, then the output projection: (B, Q, W)."""
        return self.merge(F.scaled_dot_product_attention(q, k, v, **mask))

    def merge(self, heads):
        """The output projection of what the heads hold: (B, heads, Q, W/heads) -> (B, Q, W)."""
        return self.out_proj(heads.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm residual block; its caller composes the stages, since the towers read different parts of it."""

    def __init__(self, width, heads, mlp_width, act):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, mlp_width), gelu=act(), c_proj=nn.Linear(mlp_width, width))
        )

    def add_mlp(self, x):
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, mlp_width, act):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mlp_width, act) for _ in range(layers))


class ImageTower(nn.Module):
    """Vision transformer: (B, 3, S, S) images to the class token and, if asked for, patch tokens of a stream."""

    def __init__(self, image_size, patch_size, width, layers, heads, mlp_width, embed_dim, act):
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
    def n_patches(self):
        """P."""
        return len(self.positional_embedding) - 1

    def forward(self, images, local="vv"):
        """Class token (B, W) and patch tokens (B, P, W), None without ``local``; both after ln_post, before proj.

        local: the stream of the patch tokens, one of STREAMS, or None.
        Raises ValueError for another stream, or images of another size than the positional embeddings'.
        """
        if local not in (None, *STREAMS):
            raise ValueError(f"the patch tokens are of the stream {', '.join(STREAMS)}, or None, not {local!r}")
        streams = () if local is None else (local,)
        class_token, patches = self.encode(self.embed(images), streams)
        return class_token, patches.get(local)

    def embed(self, images):
        """Tokens (B, 1 + P, W): the class token and the patches, with their positions."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            raise ValueError(f"images are {tuple(images.shape[-2:])} pixels, but this CLIP takes {size}")
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(images.shape[0], 1, -1)  # len() would fix the number in an export
        return torch.cat([class_token, patches], dim=1) + self.positional_embedding

    def encode(self, tokens, streams=(), deep=None):
        """Class token (B, W) and {stream: patch tokens (B, P, W)} of embedded tokens (B, 1 + P, W), in one pass.

        deep: {block: prompts (n, W)} that take the last n places before a block, of tokens with n prompts after the
        patches; with them only the class token is to be had.

        The V-V stream r stands beside the standard one x, which it never touches: r gains
        softmax(v v^T) v of each block and passes no MLP. In the first block r starts from x plus the standard
        attention, as in the authors' implementation. r has no class token: nothing reads it.
        """
        x, patches = self.ln_pre(tokens), {}
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


class CLIP(nn.Module):
    """Both towers. Heads default to one per 64 channels, the MLP to four times the width: OpenAI's rule."""

    def __init__(
        self,
        embed_dim,
        image_size,
        patch_size,
        vision_width,
        vision_layers,
        text_width,
        text_layers,
        context_length=77,
        vocab_size=49408,
        vision_heads=None,
        text_heads=None,
        vision_mlp=None,
        text_mlp=None,
        act=QuickGELU,
    ):
        super().__init__()
        self.visual = ImageTower(
            image_size,
            patch_size,
            vision_width,
            vision_layers,
            vision_heads or max(vision_width // 64, 1),
            vision_mlp or 4 * vision_width,
            embed_dim,
            act,
        )
        self.token_embedding = nn.Embedding(vocab_size, text_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, text_width))
        self.transformer = Transformer(
            text_width, text_layers, text_heads or max(text_width // 64, 1), text_mlp or 4 * text_width, act
        )
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.empty(text_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        # What the pixels were normalised with in pretraining, and which BPE pieces it saw (None: all).
        self.pixel_mean, self.pixel_std = PIXEL_MEAN, PIXEL_STD
        self.known_tokens = None
        self.long_names = "stop"  # at a class name without room: or "truncate"
        self.memory_budget = math.inf  # bytes that the text tower may keep for the backward pass
        self.init_weights()

    @classmethod
    def from_state_dict(cls, state, **options):
        """The CLIP whose sizes are those of an OpenAI-format state dict, in float32, frozen, ready for use.

        ``options`` (heads, activation) are what shapes do not tell. Raises ValueError if ``state`` is not that of a
        plain CLIP with a vision transformer.
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
            clip.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
        except (KeyError, RuntimeError) as error:
            what = "a ResNet" if "visual.layer1.0.conv1.weight" in state else str(error).splitlines()[-1].strip()
            raise ValueError(
                f"these weights are not a plain CLIP with a vision transformer ({what}): "
                "patch features need one, such as ViT-B/16"
            ) from error
        return clip.requires_grad_(False).eval()

    @torch.no_grad()
    def init_weights(self):
        """Random weights at the scales CLIP's pretraining starts from."""
        for tower in (self.visual.transformer, self.transformer):
            width, layers = tower.resblocks[0].ln_1.weight.shape[0], len(tower.resblocks)
            for block in tower.resblocks:
                block.attn.in_proj_weight.normal_(std=width**-0.5)
                block.attn.out_proj.weight.normal_(std=width**-0.5 * (2 * layers) ** -0.5)
                block.mlp.c_fc.weight.normal_(std=(2 * width) ** -0.5)
                block.mlp.c_proj.weight.normal_(std=width**-0.5 * (2 * layers) ** -0.5)
        for parameter in (self.visual.class_embedding, self.visual.positional_embedding, self.visual.proj):
            parameter.normal_(std=len(self.visual.class_embedding) ** -0.5)
        self.token_embedding.weight.normal_(std=0.02)
        self.positional_embedding.normal_(std=0.01)
        self.text_projection.normal_(std=len(self.text_projection) ** -0.5)
        self.logit_scale.fill_(1 / 0.07).log_()

    def check_pixels(self, size, mean, std):
        """Raise ValueError unless images are resized and normalised as this CLIP was pretrained."""
        ours = ((self.visual.image_size,) * 2, self.pixel_mean, self.pixel_std)
        for key, got, wanted in zip(("SIZE", "PIXEL_MEAN", "PIXEL_STD"), (size, mean, std), ours, strict=True):
            if len(got) != len(wanted) or any(abs(a - b) > 1e-3 for a, b in zip(got, wanted, strict=True)):
                raise ValueError(f"INPUT.{key} is {tuple(got)}, but this CLIP was pretrained with {tuple(wanted)}")

    def encode_image(self, images):
        """CLIP's image feature, (B, 3, S, S) -> (B, D), before normalisation."""
        return self.visual(images, local=None)[0] @ self.visual.proj

    def encode_text(self, token_ids):
        """CLIP's text feature, (B, L) BPE ids -> (B, D), before normalisation."""
        eot = token_ids.argmax(dim=-1)
        alike = (token_ids == token_ids[0]).all(dim=0).cumprod(dim=0).sum()
        shared = int(torch.minimum(alike, eot.min()))

        def embed(classes, places, first):
            return self.token_embedding(token_ids[classes, places])[None]

        return self.encode_prompts(embed, eot, shared=shared)[:, 0]

    def encode_prompts(self, embed, eot, n_prompts=1, shared=0, deep=None):
        """Text features (C, M, D), before normalisation, of M prompts of each of C classes.

        embed(classes, places, first): embeddings (M, ..., W), without positions, of places (...) in the prompts of
        classes (...), none before the place ``first``; eot (C,) index of the EOT; n_prompts: M; shared: how many first
        positions are alike in all classes; deep {block: (n, W) or (C, n, W)} tokens that take the places after the SOT
        before a block.

        Attention is causal, which spares most of the C M L positions and changes no result: none after an EOT is run;
        those that classes share are run once for each of the M prompts; of the last block only the EOT is run. What
        is left is packed into rows of several prompts, which several processes share out. If the backward pass would
        keep more than ``memory_budget`` bytes, the rows go in parts, which are run again in the backward pass.
        """
        deep, device = deep or {}, self.positional_embedding.device
        if not all(tokens.dim() == 2 and len(tokens) < shared for tokens in deep.values()):
            shared = min(shared, 1)  # classes do not share the tokens' places
        rows = pack(tuple((eot + 1 - shared).tolist()), shared, device)
        places = torch.arange(shared, device=device)
        past = self.run_shared(embed(0 * places, places, 0), deep if shared > 1 else {}) if shared else None
        deep = {} if shared > 1 else {i: t.expand(len(eot), *t.shape[-2:]) for i, t in deep.items()}
        (n_rows, width), (first, last) = rows.classes.shape, parallel.share(len(rows.classes))
        size = int(min(self.memory_budget / (self.bytes_per_position() * width * n_prompts), n_rows))
        run = self.run_rows
        if torch.is_grad_enabled() and size < n_rows:
            run = partial(checkpoint, self.run_part, use_reentrant=False, preserve_rng_state=False)
        size = max(size, 1)
        starts = range(first, last, size) or [0]  # of fewer rows than processes, one is run for nothing
        features = [run(embed, past, rows.part(i, min(i + size, max(last, 1))), shared, deep) for i in starts]
        features = parallel.gather(torch.cat(features, dim=1)[:, : last - first], n_rows, dim=1)
        return features.flatten(1, 2)[:, rows.order].transpose(0, 1)

    def run_shared(self, x, deep):
        """Keys and values (M, heads, S, W/heads), of each block, of the first positions (M, S, W) of prompts."""
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

    def run_part(self, *rows):
        """``run_rows`` of a part of them, after the memory of the part before has been given back."""
        if self.positional_embedding.device.type == "cpu":
            give_back()
        return self.run_rows(*rows)

    def run_rows(self, embed, past, rows, shared, deep):
        """Text features (M, R, E, D) at the E EOTs of R packed rows, after what ``run_shared`` has run."""
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

    def bytes_per_position(self):
        """What the text tower's backward pass keeps of one position, with frozen weights.

        Of each block: the inputs of two norms, queries, keys and values, what attention makes of them, and the MLP's
        inner layer.
        """
        width, mlp = self.text_projection.shape[0], len(self.transformer.resblocks[0].mlp.c_fc.weight)
        return len(self.transformer.resblocks) * (8 * width + mlp) * self.text_projection.element_size()


class Rows(NamedTuple):
    """How prompts of C classes stand in R rows of L positions, several in a row, each whole."""

    classes: torch.Tensor  # (R, L) whose prompt it is; where none stands, any
    places: torch.Tensor  # (R, L) position in that prompt
    visible: torch.Tensor  # (R, 1, L, S + L) what a position attends to: S shared ones, its own prompt up to itself
    ends: torch.Tensor  # (R, E) where the EOTs stand; where a row has fewer than E, 0
    order: torch.Tensor  # (C,) where the EOT of a class is among the R E

    def part(self, start, stop):
        return Rows(*(t[start:stop] for t in self[:4]), None)


@lru_cache(maxsize=16)  # of a model's branches, in training the same at each step
def pack(lengths, shared, device):
    """Rows for prompts of so many positions after the first ``shared`` ones."""
    n_rows = math.ceil(sum(lengths) / max(*lengths, ROW))
    rows, filled = [[] for _ in range(n_rows)], [(0, r) for r in range(n_rows)]
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):  # the long ones first: rows end up alike
        used, r = heappop(filled)
        rows[r].append(c)
        heappush(filled, (used + lengths[c], r))
    width = max(filled)[0]
    owner = torch.full((len(rows), width), -1)
    places, ends = torch.full_like(owner, shared), torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    order = torch.empty(len(lengths), dtype=torch.long)
    for r, row in enumerate(rows):
        start = 0
        for e, c in enumerate(row):
            stop = start + lengths[c]
            owner[r, start:stop], places[r, start:stop] = c, torch.arange(shared, shared + lengths[c])
            ends[r, e], order[c], start = stop - 1, r * ends.shape[1] + e, stop
    own = (owner[:, :, None] == owner[:, None]).tril()
    visible = torch.cat([own.new_ones(*owner.shape, shared), own], dim=-1)[:, None]
    return Rows(*(t.to(device) for t in (owner.clamp(min=0), places, visible, ends, order)))


def put(x, tokens, start):
    """x (B, L, W) with tokens (n, W) or (B, n, W) in the places from ``start`` on."""
    tokens = tokens.to(x.dtype).expand(len(x), *tokens.shape[-2:])
    return torch.cat([x[:, :start], tokens, x[:, start + tokens.shape[1] :]], dim=1)


def count_children(state, prefix):
    """Number of different names that follow a prefix in the keys of a state dict: blocks of a list of blocks."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

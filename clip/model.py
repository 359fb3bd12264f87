"""CLIP with OpenAI's attribute names, transformers of (length, batch, width), and half precision.

It is for trainers of other repositories that use parts of the model. The trainers here use sotglp.clip, whose weights
have the same names.

Letters: B images or texts, L positions, W width of a tower, D joint dimension, S side of an image, T texts.
"""

from collections import OrderedDict

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from sotglp.checkpoints import NO_WEIGHTS
from sotglp.clip import count_children
from sotglp.towers import QuickGELU


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in the type of its weights, float32; the result has the type of the input."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ResidualAttentionBlock(nn.Module):
    """A pre-norm residual block."""

    def __init__(self, d_model, n_head, attn_mask=None):
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_head)
        self.ln_1 = LayerNorm(d_model)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(d_model, 4 * d_model), gelu=QuickGELU(), c_proj=nn.Linear(4 * d_model, d_model))
        )
        self.ln_2 = LayerNorm(d_model)
        self.attn_mask = attn_mask

    def attention(self, x):
        mask = None if self.attn_mask is None else self.attn_mask[: len(x), : len(x)].to(x)
        return self.attn(x, x, x, need_weights=False, attn_mask=mask)[0]

    def forward(self, x):
        """Return tokens (L, B, W) of tokens (L, B, W)."""
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of residual blocks."""

    def __init__(self, width, layers, heads, attn_mask=None):
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(width, heads, attn_mask) for _ in range(layers)))

    def forward(self, x):
        """Return tokens (L, B, W) of tokens (L, B, W)."""
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    """The image tower of a ViT."""

    def __init__(self, input_resolution, patch_size, width, layers, heads, output_dim):
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((input_resolution // patch_size) ** 2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, output_dim))

    def forward(self, x):
        """Return the features (B, D) of images (B, 3, S, S)."""
        x = self.conv1(x).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([class_token, x], dim=1) + self.positional_embedding.to(x.dtype)
        x = self.transformer(self.ln_pre(x).transpose(0, 1)).transpose(0, 1)
        x = self.ln_post(x[:, 0])
        return x if self.proj is None else x @ self.proj


class CLIP(nn.Module):
    """Image tower, text tower and logit scale."""

    def __init__(self, visual, embed_dim, context_length, vocab_size, width, heads, layers):
        super().__init__()
        self.context_length, self.vocab_size = context_length, vocab_size
        self.visual = visual
        causal = torch.full((context_length, context_length), float("-inf")).triu(1)
        self.transformer = Transformer(width, layers, heads, causal)
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @property
    def dtype(self):
        return self.visual.conv1.weight.dtype

    def encode_image(self, image):
        """Return the features (B, D) of images (B, 3, S, S), not normalised."""
        return self.visual(image.type(self.dtype))

    def encode_text(self, text):
        """Return the features (B, D) of token ids (B, L), not normalised."""
        x = self.token_embedding(text).type(self.dtype)
        x = x + self.positional_embedding[: x.shape[1]].type(self.dtype)
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        x = self.ln_final(x).type(self.dtype)
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection

    def forward(self, image, text):
        """Return the logits (B, T) per image and (T, B) per text."""
        image, text = (nn.functional.normalize(x, dim=-1) for x in (self.encode_image(image), self.encode_text(text)))
        logits = self.logit_scale.exp() * image @ text.T
        return logits, logits.T


def convert_weights(model):
    """Cast matrices and convolutions to half precision; norms, embeddings and the logit scale stay float32."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            module.half()
    for owner in (model, model.visual):
        for name in ("text_projection", "proj"):
            if isinstance(getattr(owner, name, None), nn.Parameter):
                getattr(owner, name).data = getattr(owner, name).data.half()


def build_model(state_dict, *_):
    """Return the CLIP of an OpenAI state dict (ViT or ResNet), in half precision and evaluation mode.

    Further arguments are ignored: other repositories pass settings of their own CLIP, such as MaPLe's design details.
    """
    state = {k: v for k, v in state_dict.items() if k not in NO_WEIGHTS}
    embed_dim, width = state["text_projection"].shape[1], state["ln_final.weight"].shape[0]
    visual = _build_vit(state, embed_dim) if "visual.proj" in state else _build_resnet(state, embed_dim)
    model = CLIP(
        visual,
        embed_dim,
        context_length=len(state["positional_embedding"]),
        vocab_size=len(state["token_embedding.weight"]),
        width=width,
        heads=max(width // 64, 1),
        layers=count_children(state, "transformer.resblocks."),
    )
    convert_weights(model)
    model.load_state_dict(state)
    return model.eval()


def _build_vit(state, embed_dim):
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    return VisionTransformer(
        input_resolution=patch * round((len(state["visual.positional_embedding"]) - 1) ** 0.5),
        patch_size=patch,
        width=width,
        layers=count_children(state, "visual.transformer.resblocks."),
        heads=max(width // 64, 1),
        output_dim=embed_dim,
    )


def _build_resnet(state, embed_dim):
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    resolution = 32 * round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    visual = ModifiedResNet(
        layers=[count_children(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)],
        output_dim=embed_dim,
        heads=width * 32 // 64,
        image_size=resolution,
        width=width,
    )
    visual.input_resolution = resolution
    return visual

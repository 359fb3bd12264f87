"""Learned contexts around class names: ``[SOT] context name [EOT]``.

Letters: C classes, M prompts of a class (G global, N local ones), T context tokens, L positions, W text width, D joint.
"""

import warnings
from collections import Counter
from functools import partial

import open_clip
import torch
import torch.nn.functional as F
from torch import nn

_TOKENIZER = open_clip.tokenizer.SimpleTokenizer()


def context_from_text(clip, text):
    """Embeddings (T, W) of the words of ``text``, to start a context from."""
    ids = torch.tensor(_TOKENIZER.encode(text), device=clip.token_embedding.weight.device)
    return clip.token_embedding(ids).detach().clone()


def start_contexts(clip, n_prompts, n_ctx, words=""):
    """Contexts (M, T, W): the embedded words, or T random tokens (normal, standard deviation 0.02) without any."""
    if n_prompts < 1 or (n_ctx < 1 and not words):
        raise ValueError(f"at least 1 prompt of 1 context token (N_CTX) is needed, not {n_prompts} of {n_ctx}")
    if words:
        return context_from_text(clip, words.replace("_", " ")).expand(n_prompts, -1, -1)
    return 0.02 * torch.randn(n_prompts, n_ctx, clip.token_embedding.weight.shape[1])


def xavier_contexts(n_classes, n_prompts, length, width):
    """Contexts (C, N, T, W), Xavier-uniform over the whole tensor: fans N*T*W and C*T*W."""
    return nn.init.xavier_uniform_(torch.empty(n_classes, n_prompts, length, width))


def orthogonal_contexts(n_classes, n_prompts, length, width):
    """Contexts (C, N, T, W): for each class and token N orthonormal rows times 0.001."""
    rows = [nn.init.orthogonal_(torch.empty(n_prompts, width), gain=1e-3) for _ in range(n_classes * length)]
    return torch.stack(rows).view(n_classes, length, n_prompts, width).transpose(1, 2).contiguous()


def with_stops(names):
    """Class names as CoOp and its relatives end a prompt: with a full stop."""
    return [f"{name}." for name in names]


def fit_name(clip, name, template="{}", taken=0):
    """BPE ids of a class name in a template; ``taken``: tokens of CLIP's context that something else takes.

    Raises ValueError for one without room; with ``clip.long_names`` ``"truncate"`` its end is cut off, with a warning.
    """
    room = len(clip.positional_embedding) - 2 - taken
    ids = _TOKENIZER.encode(template.format(name))
    if len(ids) <= room:
        return ids
    if clip.long_names == "truncate":
        pieces = _TOKENIZER.encode(name)
        for length in range(len(pieces) - 1, 0, -1):
            shorter = _TOKENIZER.decode(pieces[:length]).strip()
            if len(cut := _TOKENIZER.encode(template.format(shorter))) <= room:
                warnings.warn(f"class name {name!r} is too long for CLIP and is truncated to {shorter!r}", stacklevel=2)
                return cut
    where = "" if template == "{}" else f" in {template!r}"
    raise ValueError(
        f"class name {name!r} has {len(ids)} tokens{where}, the context leaves room for {room}: shorten it or the "
        "context, or cut names off with INPUT.LONG_NAMES truncate"
    )


def tokenize(clip, names, templates):
    """BPE ids (C * templates, L) as ``CLIP.encode_text`` takes them, all templates of a name together."""
    rows = [fit_name(clip, name, template) for name in names for template in templates]
    ids = torch.zeros(len(rows), len(clip.positional_embedding), dtype=torch.long)
    for row, pieces in zip(ids, rows, strict=True):
        row[: len(pieces) + 2] = torch.tensor([_TOKENIZER.sot_token_id, *pieces, _TOKENIZER.eot_token_id])
    return ids.to(clip.token_embedding.weight.device)


def check_names(names):
    """Raise ValueError for an empty class name; warn of those that several classes have.

    ImageNet's published names hold such pairs and have to go on working; in a user's own data they are refused.
    """
    if not all(name.strip() for name in names):
        raise ValueError(f"class {[bool(name.strip()) for name in names].index(False)} has no name")
    shared = [repr(name) for name, times in Counter(names).items() if times > 1]
    if shared:
        warnings.warn(f"several classes are called {', '.join(shared)}: no text tells them apart", stacklevel=2)


@torch.no_grad()
def encode_names(clip, names, templates=("a photo of a {}.",)):
    """Text features (C, D) of class names in templates: normalised, averaged over the templates, normalised again."""
    ids = tokenize(clip, names, templates)
    features = torch.cat([F.normalize(clip.encode_text(part), dim=-1) for part in ids.split(256)])
    return F.normalize(features.unflatten(0, (len(names), len(templates))).mean(dim=1), dim=-1)


class FixedText(nn.Module):
    """Text features (C, D) that stand still, in the place of learned prompts."""

    def __init__(self, text):
        super().__init__()
        self.register_buffer("text", text.unsqueeze(1), persistent=False)  # (C, 1, D)

    def forward(self, clip):
        return self.text


class Prompts(nn.Module):
    """M prompts for each of C class names; only ``context`` is learned.

    context: (M, T, W), shared by all classes, or (C, M, T, W), each class its own.
    position: where the context stands: before the name (``"end"``: the name ends the prompt), around it
    (``"middle"``) or after it (``"front"``), as in CoOp (arXiv 2109.01134).
    Raises ValueError for another position, or a name too long for CLIP's context; warns of words that a CLIP with a
    compact vocabulary has never seen.
    """

    def __init__(self, clip, names, context, position="end"):
        super().__init__()
        length = context.shape[-2]
        placed_before = {"end": length, "middle": length // 2, "front": 0}
        if position not in placed_before:
            raise ValueError(f"the class token position is {', '.join(placed_before)}, not {position!r}")
        before = placed_before[position]
        rows, slots = [], []
        for name in names:
            pieces = fit_name(clip, name, taken=length)
            row = [*[0] * before, *pieces, *[0] * (length - before)]
            rows.append(torch.tensor([_TOKENIZER.sot_token_id, *row, _TOKENIZER.eot_token_id]))
            after = 1 + before + len(pieces)
            slot = torch.full_like(rows[-1], -1)
            slot[[*range(1, 1 + before), *range(after, after + length - before)]] = torch.arange(length)
            slots.append(slot)
        _warn_of_unseen_words(clip, names)
        self.eot = torch.tensor([len(row) - 1 for row in rows])
        self.before = before
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(clip.token_embedding.weight.device)
        self.context = nn.Parameter(context.to(clip.token_embedding.weight).clone())
        # Rebuilt from the names, so a checkpoint holds nothing but what was learned.
        self.register_buffer("template", clip.token_embedding(ids).detach(), persistent=False)
        slots = nn.utils.rnn.pad_sequence(slots, batch_first=True, padding_value=-1)
        self.last_slot = int((slots >= 0).nonzero()[:, 1].max()) if length else 0
        self.register_buffer("slots", slots.to(ids.device), persistent=False)

    def embed(self, context, classes, places, first=0):
        """Embeddings (M, ..., W) as ``CLIP.encode_prompts`` asks for them, of a context with any M."""
        template = self.template[classes, places]
        if first > self.last_slot:  # all places are of names
            return template.expand(context.shape[-3], *template.shape)
        slots = self.slots[classes, places]  # which token of the context stands there, -1: none
        at = slots.clamp(min=0)
        tokens = context[:, at] if context.dim() == 3 else context[classes, :, at].movedim(-2, 0)
        return torch.where((slots >= 0)[..., None], tokens, template)

    def forward(self, clip, context=None, deep=None):
        """Normalised text features (C, M, D); ``deep`` as ``CLIP.encode_prompts`` takes it."""
        return F.normalize(self.encode(clip, context, deep), dim=-1)

    def encode(self, clip, context=None, deep=None):
        """Text features (C, M, D) as they leave the text tower; ``context``: used instead of the learned one, any M."""
        context = self.context if context is None else context
        shared = 1 + (self.before if context.dim() == 3 else 0)  # the SOT, and what of the context stands before names
        return clip.encode_prompts(partial(self.embed, context), self.eot, context.shape[-3], shared, deep)


def _warn_of_unseen_words(clip, names):
    if clip.known_tokens is None:
        return
    words = {word: None for name in names for word in name.split()}  # in order, each once
    unseen = [word for word in words if not clip.known_tokens.issuperset(_TOKENIZER.encode(word))]
    if unseen:
        warnings.warn(f"this CLIP never saw these words of the class names: {', '.join(unseen)}", stacklevel=1)

"""Learned contexts around class names: ``[SOT] context name [EOT]``, with fixed words around the name.

Letters: C classes, M prompts of a class (G global, N local ones), T context tokens, L positions, W text width, D joint
dimension.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from sotglp.interface import Backbone
from sotglp.templates import DEFAULT


def context_from_text(clip: Backbone, text: str) -> torch.Tensor:
    """Return the embeddings (T, W) of the words of ``text``, to start a context from."""
    ids = torch.tensor(clip.tokenizer.encode(text), device=clip.token_embedding.weight.device)
    return clip.token_embedding(ids).detach().clone()


def start_contexts(clip: Backbone, n_prompts: int, n_ctx: int, words: str = "") -> torch.Tensor:
    """Return contexts (M, T, W): the embedded words, or random tokens (normal, standard deviation 0.02) without any.

    Args:
        clip: whose embeddings are used.
        n_prompts: M.
        n_ctx: T of random contexts.
        words: that each context starts from; ``_`` stands for a space.

    Raises:
        ValueError: there would be no prompt or no token.
    """
    if n_prompts < 1 or (n_ctx < 1 and not words):
        raise ValueError(f"at least 1 prompt of 1 context token (N_CTX) is needed, not {n_prompts} of {n_ctx}")
    if words:
        return context_from_text(clip, words.replace("_", " ")).expand(n_prompts, -1, -1)
    return 0.02 * torch.randn(n_prompts, n_ctx, clip.token_embedding.weight.shape[1])


def xavier_contexts(n_classes: int, n_prompts: int, length: int, width: int) -> torch.Tensor:
    """Return contexts (C, N, T, W), Xavier-uniform over the whole tensor: fans N*T*W and C*T*W."""
    return nn.init.xavier_uniform_(torch.empty(n_classes, n_prompts, length, width))


def orthogonal_contexts(n_classes: int, n_prompts: int, length: int, width: int) -> torch.Tensor:
    """Return contexts (C, N, T, W): for each class and token N orthonormal rows times 0.001."""
    rows = [nn.init.orthogonal_(torch.empty(n_prompts, width), gain=1e-3) for _ in range(n_classes * length)]
    return torch.stack(rows).view(n_classes, length, n_prompts, width).transpose(1, 2).contiguous()


def first_tokens(clip: Backbone, words: str, n: int) -> torch.Tensor:
    """Return the embeddings (n, W) of the first tokens of a text, to start a context from.

    Raises:
        ValueError: the text has fewer tokens.
    """
    context = context_from_text(clip, words)
    if len(context) < n:
        raise ValueError(f"the context {words!r} has {len(context)} tokens, fewer than N_CTX {n}")
    return context[:n]


def fit_name(clip: Backbone, name: str, template: str = "{}", taken: int = 0) -> list[int]:
    """Return the ids of a class name in a template, without SOT and EOT.

    If ``clip.long_names`` is ``"truncate"``, a name that is too long is cut off at its end, with a warning.

    Args:
        clip: whose context the ids must fit in.
        name: of the class.
        template: with ``{}`` for the name.
        taken: tokens of the context that something else takes.

    Raises:
        ValueError: there is no room for the name.
    """
    words = clip.tokenizer
    room = clip.context_length - len(words.start) - len(words.end) - taken
    ids = words.encode(template.format(name))
    if len(ids) <= room:
        return ids
    if clip.long_names == "truncate":
        pieces = words.encode(name)
        for length in range(len(pieces) - 1, 0, -1):
            shorter = words.decode(pieces[:length]).strip()
            if len(cut := words.encode(template.format(shorter))) <= room:
                warnings.warn(f"class name {name!r} is too long for CLIP and is truncated to {shorter!r}", stacklevel=2)
                return cut
    where = "" if template == "{}" else f" in {template!r}"
    raise ValueError(
        f"class name {name!r} has {len(ids)} tokens{where}, the context leaves room for {room}: shorten it or the "
        "context, or cut names off with INPUT.LONG_NAMES truncate"
    )


def tokenize(clip: Backbone, names: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """Return ids (C * templates, L) as ``Backbone.encode_text`` takes them, all templates of a name together."""
    words = clip.tokenizer
    rows = [[*words.start, *fit_name(clip, name, template), *words.end] for name in names for template in templates]
    ids = torch.full((len(rows), clip.context_length), words.padding)
    for row, pieces in zip(ids, rows, strict=True):
        row[: len(pieces)] = torch.tensor(pieces)
    return ids.to(clip.token_embedding.weight.device)


def check_names(names: Sequence[str]) -> None:
    """Warn of a name that several classes have.

    ImageNet's published names hold such pairs, so it is no error here. The reader of a user's own images refuses them.

    Raises:
        ValueError: a name is empty.
    """
    if not all(name.strip() for name in names):
        raise ValueError(f"class {[bool(name.strip()) for name in names].index(False)} has no name")
    shared = [repr(name) for name, times in Counter(names).items() if times > 1]
    if shared:
        warnings.warn(f"several classes have the name {', '.join(shared)}, so their text is the same", stacklevel=2)


@torch.no_grad()
def encode_names(
    clip: Backbone, names: Sequence[str], templates: Sequence[str] = (DEFAULT,), normalise: bool = True
) -> torch.Tensor:
    """Return normalised text features (C, D) of class names, averaged over templates.

    Args:
        clip: that encodes them.
        names: of the classes.
        templates: with ``{}`` for the name.
        normalise: whether features are normalised before they are averaged, too.
    """
    features = encode_texts(clip, names, templates)
    features = F.normalize(features, dim=-1) if normalise else features
    return F.normalize(features.mean(dim=1), dim=-1)


@torch.no_grad()
def encode_texts(clip: Backbone, names: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """Return text features (C, templates, D), not normalised, of class names in each template."""
    ids = tokenize(clip, names, templates)
    features = torch.cat([clip.encode_text(part) for part in ids.split(256)])
    return features.unflatten(0, (len(names), len(templates)))


class FixedText(nn.Module):
    """Fixed text features (C, D) in the place of learned prompts."""

    text: torch.Tensor  # (C, 1, D)

    def __init__(self, text: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("text", text.unsqueeze(1), persistent=False)

    def forward(self, clip: Backbone) -> torch.Tensor:
        return self.text


class Prompts(nn.Module):
    """M prompts for each of C class names. Only ``context`` is learned.

    Warns of words that a CLIP with a compact vocabulary has never seen.

    Args:
        clip: whose embeddings are used.
        names: of the classes.
        context: (M, T, W), shared by all classes, or (C, M, T, W), each class its own.
        template: fixed words around the name, with ``{}`` for it. What follows the name ends the prompt.
        replaced: how many first tokens of the template the context stands for.
        position: of the class name (CoOp, arXiv 2109.01134): ``"end"`` puts the context before it, ``"middle"`` around
            it, ``"front"`` after it. Of an odd T the larger half follows.

    Raises:
        ValueError: another position, or a name too long for CLIP's context.
    """

    ids: torch.Tensor  # (C, L) ids; 0 in the context's places and after the EOT
    template: torch.Tensor  # (C, L, W) embeddings of SOT, name and EOT; what stands in the context's places is not read
    slots: torch.Tensor  # (C, L) which token of the context stands there; -1: none

    def __init__(
        self,
        clip: Backbone,
        names: Sequence[str],
        context: torch.Tensor,
        template: str = "{}",
        replaced: int = 0,
        position: str = "end",
    ) -> None:
        super().__init__()
        self.form = template, replaced, position
        length = context.shape[-2]
        placed_before = {"end": length, "middle": length // 2, "front": 0}
        if position not in placed_before:
            raise ValueError(f"the class token position is {', '.join(placed_before)}, not {position!r}")
        before, suffix, words = placed_before[position], template.partition("{}")[2], clip.tokenizer
        rows, slot_rows = [], []
        for name in names:
            pieces = fit_name(clip, name, template, taken=length - replaced)[replaced:]
            text = template.format(name)
            following = len(words.encode(text)) - len(words.encode(text[: len(text) - len(suffix)]))
            named = len(pieces) - following  # up to the end of the name
            row = [*[0] * before, *pieces[:named], *[0] * (length - before), *pieces[named:]]
            rows.append(torch.tensor([*words.start, *row, *words.end]))
            first = len(words.start)
            after = first + before + named
            slot = torch.full_like(rows[-1], -1)
            slot[[*range(first, first + before), *range(after, after + length - before)]] = torch.arange(length)
            slot_rows.append(slot)
        warn_of_unseen_words(clip, names)
        self.eot = torch.tensor([len(row) - 1 for row in rows])
        self.n_shared = len(words.start) + before  # the SOT, and what of a shared context stands before names
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(clip.token_embedding.weight.device)
        self.register_buffer("ids", ids, persistent=False)
        self.context = nn.Parameter(context.to(clip.token_embedding.weight).clone())
        # Rebuilt from the names, so a checkpoint holds nothing but what was learned.
        self.register_buffer("template", clip.token_embedding(ids).detach(), persistent=False)
        slots = nn.utils.rnn.pad_sequence(slot_rows, batch_first=True, padding_value=-1)
        self.last_slot = int((slots >= 0).nonzero()[:, 1].max()) if length else 0
        self.register_buffer("slots", slots.to(ids.device), persistent=False)

    def for_names(self, clip: Backbone, names: Sequence[str]) -> "Prompts":
        """Return prompts of other names with this context, which classes must share."""
        return Prompts(clip, names, self.context, *self.form)

    def embed(self, context: torch.Tensor, classes: torch.Tensor, places: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Return the embeddings (M, ..., W) that ``Backbone.encode_prompts`` asks for, of a context with any M."""
        template = self.template[classes, places]
        if first > self.last_slot:  # all places are of names
            return template.expand(context.shape[-3], *template.shape)
        slots = self.slots[classes, places]
        at = slots.clamp(min=0)
        tokens = context[:, at] if context.dim() == 3 else context[classes, :, at].movedim(-2, 0)
        return torch.where((slots >= 0)[..., None], tokens, template)

    def forward(
        self, clip: Backbone, context: torch.Tensor | None = None, deep: Mapping[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return normalised text features (C, M, D); arguments as in ``encode``."""
        return F.normalize(self.encode(clip, context, deep), dim=-1)

    def encode(
        self, clip: Backbone, context: torch.Tensor | None = None, deep: Mapping[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return text features (C, M, D) as they leave the text tower, before normalisation.

        Args:
            clip: that encodes the prompts.
            context: used instead of the learned one, with any M.
            deep: as in ``Backbone.encode_prompts``.
        """
        context = self.context if context is None else context
        shared = self.n_shared if context.dim() == 3 else len(clip.tokenizer.start)
        return clip.encode_prompts(partial(self.embed, context), self.eot, context.shape[-3], shared, deep)


def knows(clip: Backbone, word: str) -> bool:
    """Return whether a CLIP saw all pieces of a word in pretraining; only one with a compact vocabulary may not."""
    return clip.known_tokens is None or clip.known_tokens.issuperset(clip.tokenizer.encode(word))


def other_forms(word: str) -> Iterator[str]:
    """Yield other forms of an English word: in the singular, in the plural, its parts apart."""
    for end, other in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
        if word.endswith(end):
            yield word[: -len(end)] + other
    yield from (f"{word}s", f"{word}es", f"{word.removesuffix('y')}ies", word.replace("-", " "), word.replace("-", ""))


def is_word(clip: Backbone, text: str) -> bool:
    """Return whether each part of a text is a piece of the vocabulary by itself; pieces of others may make any word."""
    return all(len(clip.tokenizer.encode(part)) == 1 for part in text.replace("-", " ").split())


def warn_of_unseen_words(clip: Backbone, names: Sequence[str]) -> None:
    """Warn of words in class names that a CLIP with a compact vocabulary did not see in pretraining.

    Where it saw another form of a word, the warning names it.
    """
    words = {word: None for name in names for word in name.split()}  # in order, each once
    unseen = []
    for word in words:
        if not knows(clip, word):
            known = next((form for form in other_forms(word) if is_word(clip, form) and knows(clip, form)), None)
            unseen.append(word if known is None else f"{word} (it knows {known})")
    if unseen:
        warnings.warn(f"this CLIP never saw these words of the class names: {', '.join(unseen)}", stacklevel=1)


def kept_prompts(n_prompts: int, p: float) -> int:
    """Return how many of G prompts prompt dropout p leaves: max(G - int(p G), 1).

    Raises:
        ValueError: p is not from 0 to 1.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"the prompt dropout must be a share from 0 to 1, not {p}")
    return max(n_prompts - int(p * n_prompts), 1)


def draw_prompts(n_images: int, n_prompts: int, p: float, device: torch.device | str | None = None) -> torch.Tensor:
    """Draw the prompts (B, kept) that count for each image under prompt dropout p, with replacement."""
    return torch.randint(max(n_prompts, 1), (n_images, kept_prompts(n_prompts, p)), device=device)

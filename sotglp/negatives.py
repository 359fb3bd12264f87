"""NegLabel (ICLR 2024, arXiv 2403.20078): an out-of-distribution score against words that name none of the classes.

An image of a class is nearer to the class names than to far words, any other image may not be. The score needs text
features alone, so it works on zero-shot CLIP and on learned prompts.

Candidates are the nouns and adjectives of WordNet in ``words/``. As in the authors' code, the frozen text tower reads
them in TEMPLATES, and the class names that they are chosen against in that of the nouns; those kept are dealt out to
100 groups by the seed 0. Unlike theirs, the candidates are without names of people and places, and all others in.

Letters: B images, P patches, C classes, n candidate words, M negatives, H groups of m negatives, D joint dimension.
"""

import gzip
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sotglp.backbones import load_clip
from sotglp.interface import Backbone
from sotglp.matching import in_parts, similarities
from sotglp.prompts import encode_names, knows
from sotglp.shards import whole

WORDS = Path(__file__).parent / "words"
TEMPLATES = {"nouns": "the nice {}", "adjectives": "This is a {} photo"}
GROUPS = 100
MOST = 2**23  # numbers that torch.quantile sorts at a time; it refuses more than 16 million


class Negatives(NamedTuple):
    """Words that name none of the classes, dealt out to groups."""

    words: list[str]  # H m of them
    text: torch.Tensor  # (H, m, D) their normalised text features


def choose_negatives(
    candidates: torch.Tensor, classes: torch.Tensor, quantile: float = 0.95, share: float = 0.15
) -> torch.Tensor:
    """Return the words that are furthest from all classes: indices (int(share * n),), furthest first.

    A word is as near as the given quantile of its cosines with the classes. As the authors' code, call it for nouns and
    for adjectives apart.

    Args:
        candidates: normalised text features (n, D) of words.
        classes: normalised text features (C, D) of class names.
        quantile: from 0 to 1; 1 is the nearest class, which a single odd class name decides.
        share: of the words that are kept.
    """
    parts = candidates.split(max(MOST // len(classes), 1))
    nearness = torch.cat([torch.quantile(part @ classes.T, quantile, dim=1) for part in parts])
    return nearness.argsort(stable=True)[: int(share * len(candidates))]


def shuffled(n: int, seed: int | None) -> torch.Tensor:
    """Return a permutation (n,) that the seed alone decides, on every device; the plain order without a seed."""
    return torch.arange(n) if seed is None else torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def deal(n: int, n_groups: int, seed: int | None = 0) -> torch.Tensor:
    """Return which of n things are in each group: indices (H, m). The last n mod H things are left out.

    Raises:
        ValueError: there are no groups, or more than things.
    """
    if not 1 <= n_groups <= n:
        raise ValueError(f"{n} negatives are dealt out to 1 to {n} groups, not {n_groups}")
    return shuffled(n - n % n_groups, seed).view(n_groups, -1)


def outside(classes: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return the NegLabel score (...): the larger, the more out-of-distribution.

    It is minus the share that the classes take in the softmax over classes and negatives, averaged over the groups.

    Args:
        classes: logsumexp (...) of the scaled cosines with the classes.
        groups: logsumexp (..., H) of those with each group of negatives.
    """
    return -(classes.unsqueeze(-1) - groups).sigmoid().mean(dim=-1)


def neg_label(
    positives: torch.Tensor,
    negatives: torch.Tensor,
    n_groups: int | None = GROUPS,
    tau: float = 0.01,
    seed: int | None = 0,
) -> torch.Tensor:
    """Return the NegLabel score (B,) of cosines: the larger, the more out-of-distribution.

    Args:
        positives: cosines (B, C) of images and classes.
        negatives: cosines (B, M) of images and negatives.
        n_groups: None: all negatives at once. With 1, the authors' code has no softmax, and so has this: it returns
            minus the sum of the scaled positives.
        tau: softmax temperature of the cosines.
        seed: of the order in which negatives are dealt out, the same at each call; None: as they are.

    Raises:
        ValueError: there are no groups, or more than negatives.
    """
    positives, negatives = positives.float() / tau, negatives.float() / tau
    if n_groups == 1:
        return -positives.sum(dim=1)
    groups = deal(negatives.shape[1], 1 if n_groups is None else n_groups, seed).to(negatives.device)
    return outside(positives.logsumexp(dim=1), negatives[:, groups].logsumexp(dim=-1))


def neg_label_of(
    patches: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, tau: torch.Tensor | float
) -> torch.Tensor:
    """Return the NegLabel score (B, P) of each patch, or whatever else has a feature.

    The cosines with the negatives (B, P, M) would not fit in memory: groups go in parts.

    Args:
        patches: normalised (B, P, D).
        positives: cosines (B, P, C) of patches and classes.
        negatives: normalised text features (H, m, D).
        tau: softmax temperature of the cosines.
    """
    parts = [(similarities(patches, part) / tau).logsumexp(dim=-1) for part in in_parts(negatives, patches)]
    return outside((positives / tau).logsumexp(dim=-1), torch.cat(parts, dim=-1))


def read_words(kind: str) -> list[str]:
    """Return the candidate words of a kind, nouns or adjectives."""
    return gzip.decompress((WORDS / f"{kind}.txt.gz").read_bytes()).decode().splitlines()


@torch.no_grad()
def find_negatives(clip: Backbone, names: Sequence[str]) -> Negatives:
    """Return the negatives of class names: of a CLIP with a compact vocabulary, words whose pieces it knows.

    Raises:
        ValueError: it knows too few words.
    """
    classes = encode_names(clip, names, [TEMPLATES["nouns"]])
    words: list[str] = []
    text = []
    for kind, template in TEMPLATES.items():
        candidates = read_words(kind)
        known = {part: knows(clip, part) for part in {part for word in candidates for part in word.split()}}
        candidates = [word for word in candidates if all(known[part] for part in word.split())]
        if candidates:
            features = encode_names(clip, candidates, [template])
            chosen = choose_negatives(features, classes)
            words += [candidates[i] for i in chosen.tolist()]
            text.append(features[chosen])
    if not words:
        raise ValueError("NegLabel compares with words of WordNet, and this CLIP knows too few of them")
    groups = deal(len(words), min(GROUPS, len(words)))
    return Negatives([words[i] for i in groups.flatten().tolist()], torch.cat(text)[groups.to(classes.device)])


def key_of(clip: Backbone, names: Sequence[str]) -> str:
    """Return 16 letters that name all that the negatives depend on."""
    facts = torch.__version__, clip.logit_scale.device.type, TEMPLATES, list(names)
    digest = hashlib.sha256(repr(facts).encode())
    for kind in TEMPLATES:
        digest.update((WORDS / f"{kind}.txt.gz").read_bytes())
    for name, weights in clip.state_dict().items():
        if not name.startswith("visual."):
            digest.update(weights.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


@lru_cache(maxsize=2)
def negatives_of(backbone: str, names: tuple[str, ...], device: torch.device, folder: str = "") -> Negatives:
    """Return the negatives of class names by the frozen text tower of a backbone.

    Args:
        backbone: of ``load_clip``.
        names: of the classes.
        device: that encodes the words, and holds their features.
        folder: that keeps them for other runs; they are not kept without one.

    Raises:
        ValueError: as in ``find_negatives``.
    """
    clip = load_clip(backbone).to(device)  # anew: some methods change the towers of theirs
    clip.long_names = "truncate"
    if not os.path.isdir(folder):
        return find_negatives(clip, names)
    path = Path(folder) / f"negatives-{key_of(clip, names)}.safetensors"
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            return Negatives(json.loads(file.metadata()["words"]), file.get_tensor("text"))
    except (OSError, SafetensorError):  # not there yet, or damaged
        words, text = find_negatives(clip, names)
    try:
        with whole(path) as file:
            file.write(save({"text": text.cpu()}, {"words": json.dumps(words)}))
    except OSError as error:
        print(f"NegLabel's words are not kept in {folder}: {error}", file=sys.stderr)
    return Negatives(words, text)

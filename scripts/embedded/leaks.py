"""What keeps the held-out emoji out of pretraining: their names, aliases and synonyms, and pictures that look alike.

Letters: N and M pictures.
"""

import re

import numpy as np
from scipy.fft import dctn

# Words of names that say nothing about what is there.
IDLE = {"of", "with", "and", "the", "a", "an", "symbol", "sign", "button", "for", "on", "in", "emoji"}
NEAR = 7  # of 64 bits: pictures that differ in at most so many look alike


def words_of(text):
    """Return the words of a name, lower-case."""
    return re.findall(r"[a-z0-9]+", text.lower())


def content(text):
    """Return the words of a name that say what is there, in the singular."""
    return frozenset(singular(word) for word in words_of(text)) - IDLE


def singular(word):
    """Return a word without the ending of a plural; words that only look like one lose it as well, everywhere."""
    for end, put in (
        ("ives", "ife"),
        ("ves", "f"),
        ("ies", "y"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("xes", "x"),
        ("s", ""),
    ):
        if len(word) > len(end) + 2 and word.endswith(end) and not word.endswith("ss"):
            return word.removesuffix(end) + put
    return word


class HeldOutNames:
    """Tells which names contain a held-out one: all its words, in any order, among others.

    Args:
        names: the held-out names, aliases and synonyms.
    """

    def __init__(self, names):
        self._by_word = {}
        for words in {content(name) for name in names} - {frozenset()}:
            self._by_word.setdefault(min(words), []).append(words)

    def __contains__(self, name):
        have = content(name)
        return any(words <= have for word in have for words in self._by_word.get(word, ()))


def perceptual_hash(pictures):
    """Return the perceptual hash of pictures: the signs of their lowest frequencies, (N, 64) bool.

    The 8 x 8 lowest frequencies of the cosine transform of the brightness on white, compared with their median.

    Args:
        pictures: (N, 64, 64, 3 or 4) uint8, RGB or RGBA.
    """
    luma = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    hashes = []
    for some in np.array_split(pictures, max(1, len(pictures) // 2000)):
        gray = some[..., :3].astype(np.float32) @ luma
        if some.shape[-1] == 4:
            alpha = some[..., 3].astype(np.float32) / 255
            gray = gray * alpha + 255 * (1 - alpha)
        small = gray.reshape(-1, 32, 2, 32, 2).mean(axis=(2, 4))
        low = dctn(small, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(-1, 64)
        hashes.append(low > np.median(low[:, 1:], axis=1, keepdims=True))
    return np.concatenate(hashes)


def differing_bits(hashes, others):
    """Return how many bits of N hashes differ from the nearest of M others, (N,)."""
    signs = 2 * others.T.astype(np.float32) - 1
    nearest = [((2 * some.astype(np.float32) - 1) @ signs).max(axis=1) for some in np.array_split(hashes, 16)]
    return ((hashes.shape[1] - np.concatenate(nearest)) / 2).round().astype(int)

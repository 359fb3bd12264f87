"""Texts as ids of a text tower's vocabulary."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple


class Tokenizer(NamedTuple):
    """Ids of a text, and those that a text tower expects around them."""

    encode: Callable[[str], list[int]]  # without start and end
    decode: Callable[[Sequence[int]], str]
    start: tuple[int, ...]  # before a text: the SOT, if there is one
    end: tuple[int, ...]  # after it: the EOT
    padding: int  # in the places that are left
    size: int  # of the vocabulary


@cache
def bpe() -> Tokenizer:
    """Return CLIP's byte-pair encoding (BPE)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress")  # tqdm's, in a notebook: its bars are not ours
        # Imported here, as open_clip imports torchvision and timm, which take seconds.
        from open_clip.tokenizer import SimpleTokenizer

    words = SimpleTokenizer()
    return Tokenizer(words.encode, words.decode, (words.sot_token_id,), (words.eot_token_id,), 0, len(words.encoder))


def of_hugging_face(wrapper: Any) -> Tokenizer:
    """Return the tokenizer inside open_clip's HFTokenizer, which cleans the texts."""
    words = wrapper.tokenizer

    def ids(text: str, special: bool) -> list[int]:
        return list(words(wrapper.clean_fn(text), add_special_tokens=special).input_ids)

    inner, whole = ids("a", False), ids("a", True)
    first = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    start, end = tuple(whole[:first]), tuple(whole[first + len(inner) :])
    if wrapper.strip_sep_token:  # a padding stands in its place
        end = ()
    return Tokenizer(partial(ids, special=False), words.decode, start, end, words.pad_token_id, len(words))

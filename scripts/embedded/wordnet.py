"""WordNet: what a noun means, its synonyms, and which of our categories it falls under; the words of a kind."""

import csv
import functools
import re
from pathlib import Path

SENSES = 2  # of a word; rarer ones are seldom what an icon shows
PLURALS = (("ies", "y"), ("ves", "f"), ("es", ""), ("s", ""))


class WordNet:
    """The nouns of WordNet 3.1 (Princeton University).

    Args:
        folder: ``dict`` of the package, with index.noun and data.noun.

    Attributes:
        index: {lemma: synsets}, the commonest sense first; a lemma has _ between words.
        synsets: {synset: (lemmas, hypernyms)}.
        categories: {synset: caption words of the category, the first its name}, from categories.csv.
    """

    def __init__(self, folder):
        self.index, self.synsets = {}, {}
        for line in read(folder / "index.noun"):
            fields = line.split()
            self.index[fields[0]] = fields[-int(fields[2]) :]
        for line in read(folder / "data.noun"):
            fields = line.partition("|")[0].split()
            lemmas = lemmas_of(fields)
            rest = fields[4 + 2 * len(lemmas) :]  # a count of pointers, four fields each
            pointers = zip(*[iter(rest[1 : 1 + 4 * int(rest[0])])] * 4, strict=True)
            above = [synset for symbol, synset, *_ in pointers if symbol in ("@", "@i")]
            self.synsets[fields[0]] = ([lemma.lower() for lemma in lemmas], above)
        self.categories = {}
        with open(Path(__file__).with_name("categories.csv"), newline="") as file:
            for row in csv.DictReader(file):
                self.categories[self.index[row["lemma"]][int(row["sense"]) - 1]] = row["captions"].split("|")
        self.category = functools.cache(self.category)

    def singular(self, word):
        """Return a noun's singular; other words as they are, and nouns that WordNet lists in the plural (glasses)."""
        if word in self.index:
            return word
        forms = [
            word.removesuffix(end) + put for end, put in PLURALS if word.endswith(end) and len(word) > len(end) + 2
        ]
        return next((form for form in reversed(forms) if form in self.index), word)

    def category(self, synset):
        """Return the caption words of the nearest category above a synset, itself included; None if there is none."""
        front = [synset]
        while front:
            found = [self.categories[s] for s in front if s in self.categories]
            if found:
                return found[0]
            front = [above for s in front for above in self.synsets[s][1]]
        return None

    def meaning(self, words):
        """Return (synset, noun) of the thing that a name of several words is, or None if it is in no category.

        The noun is the whole name, its last two words or its last word: a "red school bus" is a "school bus".
        """
        for start in range(max(0, len(words) - 3), len(words)):
            senses = self.index.get("_".join(words[start:]), ())
            known = [s for s in senses[:SENSES] if self.category(s)]
            # What grows is drawn as it is eaten: a cherry is a tree first.
            eaten = [s for s in senses[: 2 * SENSES] if (self.category(s) or [""])[0] in ("fruit", "vegetable")]
            if known:
                plant = self.category(known[0])[0] == "plant"
                return (eaten if plant and eaten else known)[0], " ".join(words[start:])
        return None

    def synonyms(self, synset):
        """Return the lemmas of a synset as words, lower-case."""
        return [lemma.replace("_", " ") for lemma in self.synsets[synset][0]]


def lemmas_of(fields):
    """Return the lemmas of a line of data.noun or data.adj, as they are spelled."""
    return fields[4 : 4 + 2 * int(fields[3], 16) : 2]


def common_words(path):
    """Return the words of data.noun or data.adj that are spelled in small letters, sorted: no names, no numbers.

    A word may be several, such as "ice cream".
    """
    lemmas = {lemma for line in read(path) for lemma in lemmas_of(line.split())}
    words = {re.sub(r"\((a|p|ip)\)$", "", lemma).replace("_", " ") for lemma in lemmas}  # where an adjective may stand
    return sorted(word for word in words if re.fullmatch(r"[a-z][a-z' -]+", word))


def read(path):
    """Yield the lines of a file of WordNet, without its licence, whose lines begin with a blank."""
    with open(path, encoding="utf-8") as file:
        yield from (line for line in file if line[0] != " ")

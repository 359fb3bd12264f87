"""Captions that are true of a picture, and which captions are true of which pictures.

``ATTRIBUTES`` are a picture's style, its background and what was done to it (blur, rotation, ...). One caption in five
names one or two of them, so that words around a class name mean something. A caption is a positive of every picture
of the batch that it is true of: its noun is one of the picture's, and every attribute that it names holds.

Letters: B pictures, T captions, K attributes, L positions.
"""

from functools import cache

import torch
from open_clip.tokenizer import SimpleTokenizer

SOT, EOT = 49406, 49407
COLORS = {
    "red": (0.85, 0.2, 0.2),
    "orange": (0.95, 0.6, 0.2),
    "yellow": (0.95, 0.9, 0.35),
    "green": (0.35, 0.7, 0.35),
    "blue": (0.3, 0.5, 0.9),
    "purple": (0.6, 0.35, 0.75),
    "pink": (0.97, 0.65, 0.8),
    "brown": (0.5, 0.35, 0.2),
    "grey": (0.55, 0.55, 0.55),
}
# attribute -> (where its words go in a caption, the words)
ATTRIBUTES = {
    "noto": ("medium", ["cartoon", "shaded drawing"]),
    "twemoji": ("medium", ["flat drawing", "flat icon", "simple drawing"]),
    "fluent": ("medium", ["3d render", "3d picture", "glossy render"]),
    "flat": ("medium", ["flat drawing", "colored icon", "simple drawing"]),
    "icon": ("medium", ["icon", "flat icon", "pictogram", "simple drawing"]),
    "silhouette": ("medium", ["silhouette", "shadow"]),
    "outline": ("medium", ["outline drawing", "line drawing", "sketch"]),
    "contour": ("medium", ["comic drawing", "inked drawing"]),
    "gray": ("adjective", ["grey", "gray", "black and white"]),
    "dark": ("adjective", ["dark", "dim"]),
    "inverted": ("adjective", ["inverted", "negative"]),
    "blurred": ("adjective", ["blurred", "blurry"]),
    "pixelated": ("adjective", ["pixelated", "low resolution"]),
    "noisy": ("adjective", ["noisy", "grainy"]),
    "rotated": ("adjective", ["rotated", "tilted"]),
    "upside down": ("adjective", ["upside down"]),
    "small": ("adjective", ["small", "tiny", "distant"]),
    "large": ("adjective", ["close-up", "large", "cropped"]),
    "white background": ("suffix", ["on a white background", "on white"]),
    "black background": ("suffix", ["on a black background", "on black"]),
    "gradient background": ("suffix", ["on a gradient", "on a gradient background"]),
    "busy background": ("suffix", ["on a busy background", "on a textured background"]),
    **{f"{color} background": ("suffix", [f"on a {color} background", f"on {color}"]) for color in COLORS},
}
COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}
MEDIA = ["photo"] * 5 + ["picture", "picture", "image", "image", "emoji", "icon"]
# Words of prompts that captions may lack.
TEMPLATE_WORDS = "a an the this that is of in with and or type good bad itap photo one my i cool . , ! ? : 2 3 4"


@cache
def _pieces(word, tokenizer=SimpleTokenizer()):  # noqa: B008 (one tokenizer for the module)
    return tuple(tokenizer.encode(word))


class Captioner:
    """Writes captions for concepts over a compact vocabulary.

    Args:
        concepts: entries of pretrain.json.

    Attributes:
        token_ids: sorted BPE ids of the vocabulary.
        is_noun_of: (concepts, nouns) bool.
    """

    def __init__(self, concepts):
        self.concepts = concepts
        kinds = ("names", "keywords", "categories")
        self.nouns = sorted({noun for c in concepts for kind in kinds for noun in c[kind]})
        self.index = {noun: i for i, noun in enumerate(self.nouns)}
        self.is_noun_of = torch.zeros(len(concepts), len(self.nouns), dtype=torch.bool)
        for row, concept in zip(self.is_noun_of, concepts, strict=True):
            true = [noun for kind in kinds for noun in concept[kind]]
            true += [noun.split()[-1] for noun in concept["names"]]  # a coffee cup is a cup
            row[[self.index[noun] for noun in true if noun in self.index]] = True
        words = [w for _, forms in ATTRIBUTES.values() for form in forms for w in form.split()]
        words += MEDIA + TEMPLATE_WORDS.split() + [w for noun in self.nouns for w in noun.split()]
        self.token_ids = sorted({SOT, EOT, *(piece for word in set(words) for piece in _pieces(word))})
        self._row = {token: i for i, token in enumerate(self.token_ids)}

    def write(self, concepts, attributes, random):
        """Write a caption for each picture.

        Args:
            concepts: (T,) int.
            attributes: (T, K) bool, those that hold for each picture.
            random: a random.Random.

        Returns:
            token rows (T, L) into ``token_ids``; nouns (T,); attributes that the captions name (T, K) bool.
        """
        texts, nouns, named = [], [], torch.zeros(attributes.shape, dtype=torch.bool)
        for i, (concept, held) in enumerate(zip(concepts.tolist(), attributes.tolist(), strict=True)):
            entry = self.concepts[concept]
            kind = random.choices(("names", "keywords", "categories"), weights=(0.75, 0.1, 0.15))[0]
            noun = random.choice(entry[kind] or entry["names"])
            true = [name for name, column in COLUMN.items() if held[column]]
            left = random.choices((0, 1, 2), weights=(0.8, 0.17, 0.03))[0]  # attributes to name
            parts = {"adjective": [], "medium": [], "suffix": []}
            for name in random.sample(true, len(true)):
                place, forms = ATTRIBUTES[name]
                if left and (place == "adjective" or not parts[place]):
                    parts[place].append(random.choice(forms))
                    named[i, COLUMN[name]] = True
                    left -= 1
            texts.append(self._sentence(noun, random, **parts))
            nouns.append(self.index[noun])
        return self.tokenize(texts), torch.tensor(nouns), named

    @staticmethod
    def _sentence(noun, random, adjective, medium, suffix):
        if not (adjective or medium or suffix) and random.random() < 0.15:
            return noun
        head = " ".join([*adjective, *(medium or [random.choice(MEDIA)])])
        article = random.choices(("a", "the", ""), weights=(0.6, 0.15, 0.25))[0]
        if article == "a" and noun[0] in "aeiou":
            article = "an"
        first = random.choices(("an" if head[0] in "aeiou" else "a", "the"), weights=(0.85, 0.15))[0]
        sentence = " ".join(word for word in (first, head, "of", article, noun, *suffix) if word)
        return sentence + random.choice((" .", ""))

    def tokenize(self, texts):
        """Return rows (T, L) into ``token_ids``, padded with 0 after the EOT, whose row is the largest."""
        rows = [
            [self._row[SOT], *(self._row[p] for word in text.split() for p in _pieces(word)), self._row[EOT]]
            for text in texts
        ]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for target, row in zip(tokens, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        return tokens

    def truth(self, concepts, attributes, nouns, named):
        """Return whether caption t is true of picture b, (B, T) bool."""
        noun_holds = self.is_noun_of[concepts][:, nouns]
        missing = (~attributes).float() @ named.float().T
        return noun_holds & (missing == 0)

"""Batches for pretraining: canvases with one object or several, a caption for each object, and the names of categories.

Letters: B canvases, N objects, P patches, T captions, Q categories.
"""

import json
import random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dassl.utils import UserError
from scripts.embedded.augment import Augmenter
from scripts.embedded.captions import Captioner

PATCHES, SIDE = 64, 8
SHARES = {"emoji": 0.58, "clothes": 0.12, "icon": 0.30}  # of the pictures of a batch
# Categories that are true of much that lacks them: no picture is told that they are wrong.
GENERIC = {
    "object", "thing", "food", "animal", "device", "container", "place", "scenery", "instrument", "body part", "person",
    "human", "paper", "hat", "headwear", "face", "shape", "light", "fish", "house", "tower", "bridge", "toy", "book",
    "structure", "organ", "bone", "professional", "sign",
}  # fmt: skip
TEMPLATES = ("a photo of a {} .", "a photo of a {}", "a picture of a {} .", "an image of a {} .", "a {} .", "{}")


class Batch(NamedTuple):
    """A step's canvases, objects and captions. The first canvases have one object each; empty ones have none.

    Attributes:
        images: (B, 3, 64, 64) in [0, 1].
        canvas: (N,) the canvas of each object.
        share: (N, P) how much of each patch the object covers.
        tokens: (N, L) a caption of each object.
        truth: (N, N) whether caption t is true of object n.
        category_tokens: (Q, L).
        category_truth: (N, Q).
        judged: (N,) whether all true categories of the object are known.
    """

    images: torch.Tensor
    canvas: torch.Tensor
    share: torch.Tensor
    tokens: torch.Tensor
    truth: torch.Tensor
    category_tokens: torch.Tensor
    category_truth: torch.Tensor
    judged: torch.Tensor

    def to(self, device):
        return Batch(*(value.to(device) for value in self))


class Pictures:
    """The pretraining pictures and their words; ``batch`` draws canvases, captions and their truth.

    Args:
        folder: what make_data.py wrote.

    Raises:
        UserError: The folder has no such file.
    """

    def __init__(self, folder):
        if not (folder / "pretrain.npz").exists():
            raise UserError(f"{folder / 'pretrain.npz'} is missing: run python -m scripts.embedded.make_data first")
        with np.load(folder / "pretrain.npz") as data:
            self.pictures = torch.from_numpy(data["pictures"]).permute(0, 3, 1, 2).contiguous()
            self.concept, self.style = torch.from_numpy(data["concept"]), data["style"]
        words = json.loads((folder / "pretrain.json").read_text())
        self.styles, concepts = words["styles"], words["concepts"]
        self.captioner = Captioner(concepts)
        self.weight = picture_weights(concepts, self.concept)
        of_emoji = torch.tensor([c["kind"] == "emoji" for c in concepts])[self.concept]
        self.is_emoji = of_emoji & torch.from_numpy(self.style != self.styles.index("icon"))
        known = [set(c["categories"]) | set(c["names"] if c["kind"] == "clothes" else ()) for c in concepts]
        labelled = [c["kind"] != "emoji" or bool(c["label"]) for c in concepts]
        # The names of clothes are categories too, as they are many pictures'.
        named = {word for words, some in zip(known, labelled, strict=True) if some for word in words}
        self.categories = sorted(named - GENERIC)
        clothes = {name for c in concepts if c["kind"] == "clothes" for name in c["names"]}
        self.in_category = torch.zeros(len(concepts), len(self.categories), dtype=torch.bool)
        column = {word: i for i, word in enumerate(self.categories)}
        self.judged = torch.zeros(len(concepts), dtype=torch.bool)
        for i, (concept, words, some) in enumerate(zip(concepts, known, labelled, strict=True)):
            if some:  # an emoji without a label is in none of the categories
                words = words | clothes & set(concept["names"])
                self.in_category[i, [column[word] for word in words if word in column]] = True
            self.judged[i] = bool(self.in_category[i].any()) or concept["kind"] == "emoji"

    def batch(self, singles, collages, seed, icons=True):
        """Draw a Batch; the same seed draws the same.

        Args:
            singles, collages: numbers of canvases with one object, and with up to four.
            icons: whether icons are drawn, or emoji in colours alone.
        """
        generator, choices = torch.Generator().manual_seed(seed), random.Random(seed)
        weight = self.weight if icons else self.weight * self.is_emoji
        chosen = torch.multinomial(weight, singles + 4 * collages, generator=generator)
        concepts, styles = self.concept[chosen], [self.styles[s] for s in self.style[chosen.numpy()]]
        augmenter, some = Augmenter(generator), slice(0, singles)
        images, coverage, attributes = augmenter.singles(self.pictures[chosen[some]], styles[some])
        canvas = torch.arange(singles)
        if collages:
            some = slice(singles, None)
            more, covers, named = augmenter.collages(self.pictures[chosen[some]], styles[some])
            images, coverage = torch.cat([images, more]), torch.cat([coverage, covers.flatten(0, 1)])
            attributes = torch.cat([attributes, named])
            canvas = torch.cat([canvas, singles + torch.arange(collages).repeat_interleave(4)])
        share = F.avg_pool2d(coverage[:, None], coverage.shape[-1] // SIDE).flatten(1)
        seen = share.sum(dim=1) > 0.3  # of an object that is hidden or left out nothing is said
        canvas, share, concepts, attributes = canvas[seen], share[seen], concepts[seen], attributes[seen]
        tokens, nouns, named = self.captioner.write(concepts, attributes, choices)
        truth = self.captioner.truth(concepts, attributes, nouns, named)
        template = choices.choice(TEMPLATES)
        category_tokens = self.captioner.tokenize(
            [template.format(name).replace(" a a", " an a") for name in self.categories]
        )
        category_truth = self.in_category[concepts]
        return Batch(images, canvas, share, tokens, truth, category_tokens, category_truth, self.judged[concepts])


def picture_weights(concepts, concept_of):
    """Return how often each picture is drawn, (pictures,), relative to the others.

    Each kind has its share. Within it, a large category has fewer draws per concept than a small one, and a
    concept with many pictures fewer draws per picture.
    """
    label = [c["label"] or c["names"][0] for c in concepts]
    number = {name: label.count(name) for name in set(label)}
    # A long name is a vague one.
    clear = torch.tensor([1.0 if c["kind"] == "emoji" else 0.6 ** (len(c["names"][0].split()) - 1) for c in concepts])
    weight = clear * torch.tensor([min(12 / number[name], 1.0) ** 0.5 for name in label])
    pictures = torch.bincount(concept_of, minlength=len(concepts)).clamp(min=1)
    weight = (weight / pictures**0.5)[concept_of]
    kind = np.array([c["kind"] for c in concepts])[concept_of.numpy()]
    for name, share in SHARES.items():
        some = torch.from_numpy(kind == name)
        weight[some] *= share / weight[some].sum().clamp(min=1e-9)
    return weight

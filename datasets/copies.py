"""Images of one split that are in another one, too: the same bytes, or nearly the same picture."""

import numpy as np

from datasets.files import equal_bytes

NEAR = 4  # bits of 64 in which the perceptual hashes of a picture and of its smaller or recompressed copy may differ
TINT = 12  # mean difference of their 8 x 8 thumbnails, of 255: hashes know no colour
BLOCK = 1024  # images that are compared with all others at a time
SHOWN = 3  # pairs of paths in a line


def portrait(image):
    """Return the perceptual hash of a PIL image, 64 numbers of -1 and 1, and its thumbnail (8, 8, 3).

    Raises:
        ImportError: The package imagehash is missing.
    """
    import imagehash

    bits = imagehash.phash(image).hash.ravel()
    return np.where(bits, 1, -1).astype(np.int8), np.asarray(image.resize((8, 8), 2), np.uint8)


def near_pairs(splits, portraits):
    """Return pairs of paths of nearly the same picture in different splits, each image of a later split at most once.

    Args:
        splits: Lists of paths.
        portraits: {path: what `portrait` returns}; images without one are left out.
    """
    pairs, earlier = [], []
    for paths in splits:
        paths = [path for path in paths if path in portraits]
        if earlier and paths:
            known = np.stack([portraits[path][0] for path in earlier]).astype(np.float32)
            for start in range(0, len(paths), BLOCK):
                block = paths[start : start + BLOCK]
                hashes = np.stack([portraits[path][0] for path in block]).astype(np.float32)
                rows, columns = np.nonzero(hashes @ known.T >= 64 - 2 * NEAR)
                found = {}
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                    one, other = block[row], earlier[column]
                    tints = (portraits[path][1].astype(int) for path in (one, other))
                    if row not in found and np.abs(np.subtract(*tints)).mean() <= TINT:
                        found[row] = other, one
                pairs += found.values()
        earlier += paths
    return pairs


def copies_in_words(splits, portraits):
    """Return lines about the images that are in several splits.

    Args:
        splits: Lists of Datum, the training images first.
        portraits: {path: what `portrait` returns}; None if the package for it is missing.
    """
    equal = equal_bytes(splits)
    lines = [in_words(equal, "equal, byte by byte, to")] if equal else []
    if portraits is None:
        return [*lines, "pictures that are nearly the same were not looked for: pip install imagehash"]
    same = {path for _, path in equal}
    near = near_pairs([[item.impath for item in items] for items in splits], portraits)
    near = [pair for pair in near if pair[1] not in same]
    return [*lines, in_words(near, "nearly the same picture as")] if near else lines


def in_words(pairs, how):
    """Return a line about pairs of paths."""
    shown = "; ".join(f"{one} {how} {other}" for other, one in pairs[:SHOWN])
    return f"{len(pairs)} image{'s' * (len(pairs) > 1)} of a later split in an earlier one: {shown}" + (
        "; ..." if pairs[SHOWN:] else ""
    )

"""Classifies images with an exported model: python classify.py IMAGE ...

Needs only numpy, pillow and onnxruntime. Beside this file lie model.onnx, which records how to prepare pixels, and
images.py, which reads images.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).parent
if __package__:  # not exported: its tests
    from dassl.utils import images as reader
else:
    sys.path.insert(0, str(HERE))  # whoever imports this file may stand elsewhere
    reader = importlib.import_module("images")


class Model:
    """An exported model.

    Args:
        folder: that holds model.onnx.

    Attributes:
        facts: what the model records of itself: classnames, size, pixel_mean, ...
    """

    def __init__(self, folder: str | Path = HERE) -> None:
        path = str(Path(folder, "model.onnx"))
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.facts = {k: json.loads(v) for k, v in self.session.get_modelmeta().custom_metadata_map.items()}

    def preprocess(self, image: str | Path | Image.Image) -> np.ndarray:
        """Return an image as (3, S, S): its square in the middle, resized and normalised."""
        how, size = {key: self.facts[key] for key in ("exif", "background")}, self.facts["size"]
        is_read = isinstance(image, Image.Image)
        picture: Image.Image = reader.to_rgb(image, **how) if is_read else reader.open_image(image, **how)
        short = min(picture.size)
        resample = Image.Resampling[self.facts["interpolation"].upper()]
        picture = picture.resize([size * side // short for side in picture.size], resample)
        left, top = (round((side - size) / 2) for side in picture.size)
        pixels = np.asarray(picture.crop((left, top, left + size, top + size)), np.float32) / 255
        mean, std = (np.asarray(self.facts[key], np.float32) for key in ("pixel_mean", "pixel_std"))
        return ((pixels - mean) / std).transpose(2, 0, 1)

    def __call__(self, images: Iterable[str | Path | Image.Image]) -> dict[str, np.ndarray]:
        """Classify n images.

        Returns:
            Probabilities (n, C) as "combined", and as "global" and "local" if the method has them; OOD scores (n,) as
            "ood".
        """
        names = [output.name for output in self.session.get_outputs()]
        pixels = np.stack([self.preprocess(image) for image in images])
        return dict(zip(names, self.session.run(names, {"images": pixels}), strict=True))


def main() -> int:
    """Classify the images of the command line, and return the exit code: 1 if an image cannot be read."""
    parser = argparse.ArgumentParser(description="Print the class of each image. Exit code: 1 an image is unreadable.")
    parser.add_argument("images", nargs="+", help="path of an image")
    paths, model, code = parser.parse_args().images, Model(), 0
    for path in paths:
        try:
            result = model([path])
        except Exception as error:  # Pillow's plugins raise many types for a damaged file
            print(f"error: cannot read image {path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            code = 1
            continue
        label = result["combined"][0].argmax()
        probability, score = result["combined"][0, label], result["ood"][0]
        text = f"{model.facts['classnames'][label]} {probability:.1%}, {model.facts['ood_score']} {score:.4f}"
        threshold = model.facts["ood_threshold"]
        print(f"{path}: {text}{', OOD' if threshold is not None and score > threshold else ''}")
    return code


if __name__ == "__main__":
    sys.exit(main())

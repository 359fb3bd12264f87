"""Classifies images with an exported model: python classify.py IMAGE ...

Needs only numpy, pillow and onnxruntime, and model.onnx beside this file, which records how to prepare pixels.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).parent


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
        image = image if isinstance(image, Image.Image) else Image.open(image)
        image, size = image.convert("RGB"), self.facts["size"]
        short = min(image.size)
        resample = Image.Resampling[self.facts["interpolation"].upper()]
        image = image.resize([size * side // short for side in image.size], resample)
        left, top = (round((side - size) / 2) for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
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


if __name__ == "__main__":
    model = Model()
    for path in sys.argv[1:]:
        result = model([path])
        label = result["combined"][0].argmax()
        probability, score = result["combined"][0, label], result["ood"][0]
        text = f"{model.facts['classnames'][label]} {probability:.1%}, {model.facts['ood_score']} {score:.4f}"
        threshold = model.facts["ood_threshold"]
        print(f"{path}: {text}{', OOD' if threshold is not None and score > threshold else ''}")

"""What pip installs. Use this repository by ``pip install -e .``: its scripts and configs are not packaged."""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

EXPORT = ["onnx", "onnxscript", "onnxruntime"]
IMAGES = ["pillow-heif", "imagehash"]  # HEIC files; near-duplicates in datasets.check --deep

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "sotglp" / "__init__.py").read_text()).group(1)
packages = find_packages(include=["sotglp", "sotglp.*", "dassl", "dassl.*", "trainers"])
if "editable_wheel" in sys.argv:
    # `datasets` and `clip` are names of well-known packages, too. An editable install comes after those on the path;
    # a copy in site-packages would overwrite them.
    packages += ["datasets", "clip"]

setup(
    name="sotglp",
    version=version,
    description="Local-global prompt learning of a frozen CLIP via sparse optimal transport",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=packages,
    package_data={"sotglp": ["weights/*", "words/*"]},
    entry_points={"dassl.plugins": ["trainers = trainers", "datasets = datasets.readers"]},
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "open_clip_torch>=3",
        "safetensors",
        "numpy",
        "pillow>=10.1",
        "yacs",
        "tqdm",
        "tabulate",
        "matplotlib",
        "scikit-learn",
        "scipy",
        "tensorboard",
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-xdist",
            "POT",
            "playwright",
            "statsmodels",
            "submitit",
            "webdataset",
            *EXPORT,
            *IMAGES,
        ],
        "lint": ["ruff", "mypy", "pre-commit"],
        "export": EXPORT,
        "images": IMAGES,
        "slurm": ["submitit"],  # for --launcher slurm
        "tars": ["webdataset"],  # for scripts.encode
        "benchmarks": ["POT", "geomloss"],
        "siglip": ["transformers", "sentencepiece"],  # tokenizers that are downloaded
        "embedded": ["resvg-py"],  # to remake the embedded benchmark
    },
)

"""What pip installs. Use this repository by ``pip install -e .``: its scripts and configs are not packaged."""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

EXPORT = ["onnx", "onnxscript", "onnxruntime"]
IMAGES = ["pillow-heif", "imagehash"]  # HEIC files; near-duplicates in datasets.check --deep

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "sotglp" / "__init__.py").read_text(encoding="utf-8")).group(1)
packages = find_packages(include=["sotglp", "sotglp.*", "dassl", "dassl.*", "trainers"])
package_dir = {}
if "editable_wheel" in sys.argv:
    # `datasets` and `clip` are names of well-known packages, too. An editable install comes after those on the path;
    # a copy in site-packages would overwrite them.
    packages += ["datasets", "clip", "sotglp_scripts"]
    # The command `sotglp` starts in scripts/, by a name that no other package has.
    package_dir = {"sotglp_scripts": "scripts"}

setup(
    name="sotglp",
    version=version,
    description="Local-global prompt learning of a frozen CLIP via sparse optimal transport",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=packages,
    package_dir=package_dir,
    package_data={"sotglp": ["weights/*", "words/*"]},
    entry_points={
        "console_scripts": ["sotglp = sotglp_scripts.__main__:main"],
        "dassl.plugins": ["trainers = trainers", "datasets = datasets.readers"],
        "sotglp": ["fit = scripts.fit:fit"],  # what `sotglp` offers and a floor above it holds
    },
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
        "filelock",
        "psutil; sys_platform != 'linux'",  # free and most memory
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-xdist>=3.8",  # --no-loadscope-reorder
            "POT",
            "playwright",
            "statsmodels",
            "submitit",
            "webdataset",
            "nbclient",
            "ipykernel",
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

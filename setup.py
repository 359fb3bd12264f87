"""Installs the library ``sotglp`` alone; the toolbox and the trainers are used from the checkout."""

import re
from pathlib import Path

from setuptools import setup

EXPORT = ["onnx", "onnxscript", "onnxruntime"]

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "sotglp" / "__init__.py").read_text()).group(1)

setup(
    name="sotglp",
    version=version,
    description="Local-global prompt learning of a frozen CLIP via sparse optimal transport",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=["sotglp"],
    package_data={"sotglp": ["weights/*"]},
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "open_clip_torch>=3",
        "safetensors",
        "numpy",
        "pillow",
        # The toolbox and the scripts of the checkout:
        "yacs",
        "tqdm",
        "tabulate",
        "matplotlib",
        "scikit-learn",
        "tensorboard",
    ],
    extras_require={
        "test": ["pytest", "pytest-xdist", "POT", "scipy", "playwright", *EXPORT],
        "export": EXPORT,
        "benchmarks": ["POT", "geomloss"],
        "embedded": ["resvg-py"],  # to remake the embedded benchmark
    },
)

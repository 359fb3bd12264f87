"""Count the images tested a second: read and encoded each time, and with features kept (INPUT.FEATURE_CACHE).

python -m benchmarks.evaluation: the test of an untrained SOT-GLP on ViT-B/16 with random weights, from JPEGs of
500 x 375 to the accuracy. Kept features are timed when they are made, and when the next test reads them. Each test is
a process of its own. Its memory is what it takes at its peak beside the libraries. Weights are in half precision, as
OpenAI's are.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tabulate import tabulate

from benchmarks.loading import photographs
from benchmarks.measure import benchmark_parser, random_clip, seconds_of, write_json
from dassl.config import compose
from dassl.utils import command, peak_memory

CONFIGS = ("backbones/vit_b16", "trainers/SOTGLP/default", "datasets/image_folder")


def write(folder, n_classes, n_images):
    """Write weights, and images in folders train/ and test/ of classes, as ImageFolder reads them."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # here, as both import torch, which takes seconds
    from safetensors.torch import save_file

    save_file(random_clip().half().state_dict(), folder / "vit_b16.safetensors")
    folder = folder / "images"
    folder.mkdir()
    for i, item in enumerate(photographs(folder, (500, 375), n_images)):
        name = IMAGENET_CLASSNAMES[i % n_classes]
        for split in ("train", "test"):
            target = folder / split / name.replace("/", " ")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(item.impath, target)
        os.unlink(item.impath)


def trainer_of(folder, cache):
    """Return an untrained SOTGLP on the images and weights of a folder."""
    from dassl.engine import build_trainer

    values = {
        "TRAINER.NAME": "SOTGLP",
        "SEED": 1,
        "DATASET.ROOT": str(folder / "images"),
        "OUTPUT_DIR": str(folder / "run"),
        "MODEL.BACKBONE.NAME": str(folder / "vit_b16.safetensors"),
        "DATALOADER.NUM_WORKERS": 2,
        "INPUT.FEATURE_CACHE": cache,
    }
    return build_trainer(compose([f"configs/{name}.yaml" for name in CONFIGS], values))


def measure(folder, cache):
    """Return the seconds to build a trainer and to test it, and the GiB that both add to this process at their peak."""
    import torch

    from scripts import warm  # noqa: F401 (the libraries)

    cpu = torch.device("cpu")
    before = peak_memory(cpu)["process"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        start, trainer = seconds_of(lambda: trainer_of(folder, cache))
        seconds, _ = seconds_of(trainer.test)
    return start, seconds, peak_memory(cpu)["process"] - before


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--classes", type=int, default=20, help="number of classes")
    parser.add_argument("--images", type=int, default=100, help="number of images")
    args = parser.parse_args(argv)
    rows = []

    def in_a_process(function, *arguments):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_a_process(write, folder, args.classes, args.images)  # a process starts with the peak memory of its parent
        features = str(folder / "features")
        for kind, cache in (
            ("read and encoded", ""),
            ("features kept, made", features),
            ("features kept, read", features),
        ):
            start, seconds, memory = in_a_process(measure, folder, cache)
            rows.append({"test": kind, "start": start, "seconds": seconds, "images a second": args.images / seconds})
            rows[-1] |= {"x the first": rows[0]["seconds"] / seconds, "GiB": memory}
    print(tabulate(rows, "keys", floatfmt=".2f"))
    write_json(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())

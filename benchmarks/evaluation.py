"""Count the images tested a second: read and encoded each time, and with features kept (INPUT.FEATURE_CACHE).

python -m benchmarks.evaluation: the test of an untrained SOT-GLP on ViT-B/16 with random weights, from JPEGs of
500 x 375 to the accuracy. Kept features are timed when they are made, and when the next test reads them.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from benchmarks.loading import photographs
from benchmarks.measure import benchmark_parser, random_clip, seconds_of, write_json
from dassl.config import compose
from dassl.utils import command

CONFIGS = ("backbones/vit_b16", "trainers/SOTGLP/default", "datasets/image_folder")


def write_images(folder, n_classes, n_images):
    """Write folders train/ and test/ of classes, as ImageFolder reads them."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # here, as it imports torch, which takes seconds

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


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--classes", type=int, default=20, help="number of classes")
    parser.add_argument("--images", type=int, default=100, help="number of images")
    args = parser.parse_args(argv)
    from safetensors.torch import save_file  # here, as it imports torch, which takes seconds

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", args.classes, args.images)
        save_file(random_clip().state_dict(), folder / "vit_b16.safetensors")
        features = str(folder / "features")
        for kind, cache in (
            ("read and encoded", ""),
            ("features kept, made", features),
            ("features kept, read", features),
        ):
            with contextlib.redirect_stdout(io.StringIO()):
                trainer = trainer_of(folder, cache)
                seconds, _ = seconds_of(trainer.test)
            rows.append({"test": kind, "seconds": seconds, "images a second": args.images / seconds})
            rows[-1]["x the first"] = rows[0]["seconds"] / seconds
    print(tabulate(rows, "keys", floatfmt=".2f"))
    write_json(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())

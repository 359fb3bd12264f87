"""Images tested a second, read and encoded each time, and with their features kept (INPUT.FEATURE_CACHE).

``python -m benchmarks.evaluation``: the test of an untrained SOT-GLP on ViT-B/16 with random weights, from JPEGs of
500 x 375 to the accuracy. Kept features are timed when they are made, and when the next test reads them.

Exit code: 0 done, 2 a wrong argument, 130 interrupted, 1 something failed.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from safetensors.torch import save_file
from tabulate import tabulate

import train
from benchmarks.loading import photographs
from benchmarks.measure import random_clip, seconds_of, write_json
from dassl.engine import build_trainer


def write_images(folder, n_classes, n_images):
    """Folders train/ and test/ of classes, as ImageFolder reads them."""
    folder.mkdir()
    for i, item in enumerate(photographs(folder, (500, 375), n_images)):
        name = IMAGENET_CLASSNAMES[i % n_classes]
        for split in ("train", "test"):
            target = folder / split / name.replace("/", " ")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(item.impath, target)
        os.unlink(item.impath)


def trainer_of(folder, *pairs):
    """An untrained SOTGLP on the images and weights of a folder."""
    arguments = ["--trainer", "SOTGLP", "--seed", "1", "--root", str(folder / "images")]
    for kind, name in (("backbones", "vit_b16"), ("trainers/SOTGLP", "default")):
        arguments += ["--config-file", f"configs/{kind}/{name}.yaml"]
    arguments += ["--dataset-config-file", "configs/datasets/image_folder.yaml", "--output-dir", str(folder / "run")]
    ours = ["MODEL.BACKBONE.NAME", str(folder / "vit_b16.safetensors"), "DATALOADER.NUM_WORKERS", "2"]
    return build_trainer(train.setup_cfg(train.parse_args([*arguments, *ours, *pairs])))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=20, help="number of classes")
    parser.add_argument("--images", type=int, default=100, help="number of images")
    parser.add_argument("--json", help="file for all measurements")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", args.classes, args.images)
        save_file(random_clip().state_dict(), folder / "vit_b16.safetensors")
        for kind, pairs in (
            ("read and encoded", ()),
            ("features kept, made", ("INPUT.FEATURE_CACHE", str(folder / "features"))),
            ("features kept, read", ("INPUT.FEATURE_CACHE", str(folder / "features"))),
        ):
            with contextlib.redirect_stdout(io.StringIO()):
                trainer = trainer_of(folder, *pairs)
                seconds, _ = seconds_of(trainer.test)
            rows.append({"test": kind, "seconds": seconds, "images a second": args.images / seconds})
            rows[-1]["x the first"] = rows[0]["seconds"] / seconds
    print(tabulate(rows, "keys", floatfmt=".2f"))
    write_json(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())

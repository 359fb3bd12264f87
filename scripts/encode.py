"""Encode the images of a data set before the runs: python -m scripts.encode DATASET [options] [KEY VALUE ...]

DATASET is a file of configs/datasets, without .yaml, or a pattern of the tar files of a WebDataset, such as
"shards/{000..009}.tar" or "shards/*.tar" (pip install -e ".[tars]"). KEY VALUE pairs change the configuration.

Features are kept in shards, each with its checksum and its list of images, in the folder that runs read them from. A
run takes them in the place of its images if its weights, its precision and its pixels are the same. Options that are
not given come from the environment, as those of scripts.run do.

Start as many processes as you like: under torchrun or as tasks of a Slurm array, each writes its share of the shards.
The same command goes on where one was stopped or killed. It also checks every byte of the shards that are there; a
damaged one is named, deleted and encoded again.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted.
"""

import contextlib
import io
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from dassl.utils import Parser, UserError, check_availability, choose_device, command, user_input
from scripts.methods import CONFIGS, names, whole_number
from scripts.run import EMBEDDED

SPLITS = ("test", "val", "train")
EVERY = 10  # seconds between lines


def parse_args(argv):
    parser, given = Parser(__doc__), os.environ.get
    features = given("FEATURES") or Path(given("OUTPUT", "output"), "features")
    parser.add_argument("dataset", help="file of configs/datasets, or a pattern of tar files")
    parser.add_argument("--split", default="test", help="one or more of test, val and train, with commas (test)")
    parser.add_argument("--streams", default="", help="patch tokens to keep beside the class tokens, as vv,value")
    parser.add_argument("--shards", help="number of shards; by default each has 1024 images; a tar file is a shard")
    parser.add_argument("--precision", default="amp", help="the runs' PREC: fp32, amp, fp16 or bf16 (amp)")
    parser.add_argument(
        "--backbone", default=given("BACKBONE"), help="BACKBONE (small for the embedded data sets, else vit_b16)"
    )
    parser.add_argument("--root", default=given("DATA", "data"), help="DATA, the folder of the data sets (data)")
    parser.add_argument("--features", type=Path, default=features, help="FEATURES (OUTPUT/features)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the configuration, and their values")
    args = parser.parse_intermixed_args(argv)
    args.split, args.streams = args.split.split(","), [stream for stream in args.streams.split(",") if stream]
    if len(args.opts) % 2:
        raise UserError(f"what follows the options must be KEY VALUE pairs, got {' '.join(args.opts)}")
    if args.shards:
        args.shards = whole_number(args.shards, 1, "shards (--shards)")
    for split in args.split:
        check_availability(split, SPLITS, "split")
    args.tars = ".tar" in args.dataset
    if not args.tars:
        check_availability(args.dataset, names("datasets"), "data set")
    elif args.shards or args.split != ["test"]:
        raise UserError("a tar file is a shard, and of no split: leave out --shards and --split")
    args.backbone = args.backbone or ("small" if args.dataset in EMBEDDED else "vit_b16")
    check_availability(args.backbone, names("backbones"), "backbone")
    return args


def place_in_job(environment):
    """Return (number of this process, number of processes) of torchrun, of a Slurm array, or of both.

    Raises:
        UserError: The tasks of the array are not numbered without gaps.
    """

    def number(name, default):
        return int(environment.get(name, default))

    rank, size = number("RANK", 0), number("WORLD_SIZE", 1)
    first, tasks = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_COUNT", 1)
    task = number("SLURM_ARRAY_TASK_ID", first)
    if not 0 <= task - first < tasks:
        raise UserError(f"number the tasks of the array without gaps, such as --array=0-{tasks - 1}")
    return (task - first) * size + rank, tasks * size


class Progress:
    """Prints images a second, bytes, and the time left, in a line from time to time.

    Args:
        what: is encoded.
        total: sum of the sizes that ``add`` will get.
    """

    def __init__(self, what, total):
        self.what, self.total = what, total
        self.images = self.done = self.bytes = 0
        self.start = self.said = time.monotonic()

    def add(self, n_images, size, n_bytes):
        """Count a batch of images, of which the features have so many bytes."""
        self.images, self.done, self.bytes = self.images + n_images, self.done + size, self.bytes + n_bytes
        if time.monotonic() - self.said > EVERY:
            self.say()

    def say(self):
        self.said = time.monotonic()
        seconds = self.said - self.start
        left = timedelta(seconds=round(seconds * (self.total / self.done - 1))) if self.done else "unknown time"
        print(
            f"{self.what}: {self.images:,} images, {self.images / seconds:.0f} a second, "
            f"{self.bytes / 2**30:.2f} GiB, {left} left",
            flush=True,
        )


def images_of(args, cfg, split):
    """Return (Images, how pixels are made, identities of the list's parts, number of shards) of a split, or of tars."""
    from dassl.data.data_manager import build_data_loader
    from dassl.data.datasets import build_dataset
    from dassl.data.transforms import build_transform
    from sotglp.features import ListedImages, files, pixels_of
    from sotglp.shards import SIZE

    transform = build_transform(cfg, is_train=False)
    if args.tars:
        try:
            from sotglp.toolbox.tars import TarImages, tars_of
        except ModuleNotFoundError as error:
            raise UserError(f'tar files need {error.name}, which is missing: pip install -e ".[tars]"') from error
        images = TarImages(cfg, tars_of(args.dataset), transform)
        return images, images.pixels, files(images.tars), len(images.tars)
    items = getattr(build_dataset(cfg), "train_x" if split == "train" else split)
    batch_size = cfg.DATALOADER.TEST.BATCH_SIZE
    loader = build_data_loader(cfg, data_source=items, batch_size=batch_size, tfm=transform, is_train=False)
    listed = files(item.impath for item in items)
    count = min(args.shards or -(-len(items) // SIZE), len(items))
    return ListedImages(loader, listed, count), pixels_of(loader.dataset), listed, count


def encode_split(args, cfg, tower, half, split, rank, size):
    """Encode this process's share of the images of a split, or of the tar files."""
    from sotglp.features import check_room, describe, encode, name_of
    from sotglp.shards import CLASS, Shards

    with contextlib.redirect_stdout(io.StringIO()):
        images, pixels, listed, count = images_of(args, cfg, split)
    what = args.dataset if args.tars else f"{args.dataset} {split}"
    folder = args.features / describe(tower, (*pixels, None), half) / name_of(listed)
    shards = Shards.create(folder, count, what)
    if args.shards and shards.count != count:
        raise UserError(f"{folder} has {shards.count} shards: give --shards {shards.count}, or leave it out")
    if not args.tars:
        images.count = shards.count
    streams = [CLASS, *args.streams]
    own = range(rank, shards.count, size)
    missing = shards.missing(streams, own, every_byte=True)
    if size > 1:
        what += f" (process {rank} of {size})"
    print(f"{what}: {len(own)} of {shards.count} shards, {len(own) - len(missing)} of which are there", flush=True)
    if missing:
        progress = Progress(what, images.size(missing))

        def add(n_images, part, n_bytes):
            if not progress.images:
                check_room(folder, n_bytes * progress.total // part)
            progress.add(n_images, part, n_bytes)

        encode(images, missing, shards, tower, args.streams, half, add)
        progress.done = progress.total
        progress.say()
    there = shards.count - len(shards.missing(streams, range(shards.count)))
    print(f"{what}: {there} of {shards.count} shards are in {folder}", flush=True)


def prepare(args):
    """Return the configuration, the frozen image tower, and the precision that it is to run in."""
    from dassl.config import compose
    from sotglp.backbones import load_clip
    from sotglp.precision import MixedPrecision

    paths = [CONFIGS / "backbones" / f"{args.backbone}.yaml"]
    values = {"DATASET.ROOT": repr(args.root)}
    if args.tars:
        values["INPUT.EXIF"] = "on"  # as of one's own images
    else:
        paths.append(CONFIGS / "datasets" / f"{args.dataset}.yaml")
    cfg = compose(paths, values | dict(zip(args.opts[::2], args.opts[1::2], strict=True)))
    device = choose_device(cfg.USE_CUDA)  # each process of torchrun sees a GPU of its own (dassl)
    clip = load_clip(cfg.MODEL.BACKBONE.NAME, images=False).to(device).eval()
    clip.check_pixels(cfg.INPUT.SIZE, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    for stream in args.streams:
        clip.visual.check_stream(stream)
    return cfg, clip.visual, MixedPrecision(args.precision, device)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = parse_args(argv)
    rank, size = place_in_job(os.environ)
    for name in ("RANK", "WORLD_SIZE"):  # each process writes, and speaks, for itself
        os.environ.pop(name, None)
    with user_input():
        with contextlib.redirect_stdout(io.StringIO()):
            cfg, tower, precision = prepare(args)
        with precision.autocast():
            for split in args.split:
                encode_split(args, cfg, tower, precision.enabled, split, rank, size)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Count the images encoded a second by scripts.encode, as it prints them, and by the image tower alone.

python -m benchmarks.encode: the test images of the embedded Fashion-MNIST, the small CLIP, class tokens and the patch
tokens of one stream. The kinds are timed in turn in one process; ratios are of one turn. Opening the data set is not
part of them. The tower has one thread, and one worker reads the images, so that each has a core.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import contextlib
import io
import re
import shutil
import statistics
import sys
import tarfile
import tempfile
from pathlib import Path

from tabulate import tabulate

from benchmarks.measure import benchmark_parser, seconds_of, write_json
from dassl.utils import command
from scripts import encode

STREAM = "vv"
TARS = 4


def write_tars(items, folder):
    """Write images into tar files, as many in each; return the pattern of the files."""
    for number in range(TARS):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for item in items[number::TARS]:
                archive.add(item.impath, Path(item.impath).name)
    return str(folder / f"{{0..{TARS - 1}}}.tar")


def forward(tower, batches, count):
    """Encode batches of so many images, and keep nothing; return the images a second."""
    import torch  # here, as it takes seconds

    def encode_all():
        with torch.inference_mode():
            for images in batches:
                tower.encode_images(images, [STREAM])

    return count / seconds_of(encode_all)[0]


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--turns", type=int, default=5, help="times of each kind")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images")
    args = parser.parse_args(argv)
    import torch  # here, as it takes seconds

    from dassl.data.data_manager import build_data_loader
    from dassl.data.datasets import build_dataset
    from dassl.data.transforms import build_transform

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        root = Path(name)
        place = ["--root", name, "--features", str(root / "features"), "--backbone", "small", "--streams", STREAM]
        options = [*place, "DATALOADER.NUM_WORKERS", str(args.workers), "DATALOADER.TEST.BATCH_SIZE", "50"]
        listed = encode.parse_args(["fashion_mnist", *options])
        cfg, tower, precision = encode.prepare(listed)
        items = build_dataset(cfg).test
        archived = encode.parse_args([write_tars(items, root), *options])
        of_tars = encode.prepare(archived)[0]
        transform, size = build_transform(cfg, is_train=False), cfg.DATALOADER.TEST.BATCH_SIZE
        loader = build_data_loader(cfg, data_source=items, batch_size=size, tfm=transform, is_train=False)
        in_memory = [batch["img"] for batch in loader]

        def command_on(arguments, settings):
            shutil.rmtree(root / "features", ignore_errors=True)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                encode.encode_split(arguments, settings, tower, precision.enabled, "test", 0, 1)
            return float(re.findall(r" (\d+) a second", out.getvalue())[-1])

        kinds = {
            "the tower alone, images in memory": lambda: forward(tower, in_memory, len(items)),
            "the tower alone, images read": lambda: forward(tower, (batch["img"] for batch in loader), len(items)),
            "scripts.encode, files": lambda: command_on(listed, cfg),
            "scripts.encode, tar files": lambda: command_on(archived, of_tars),
        }
        turns = [[call() for call in kinds.values()] for _ in range(args.turns + 1)][1:]  # warm

    def ratio(first, second):
        """Return the median over the turns of the images a second of one kind over those of another."""
        return statistics.median(turn[first] / turn[second] for turn in turns)

    rows = [
        {
            "kind": kind,
            "images a second": statistics.median(turn[i] for turn in turns),
            "x in memory": ratio(i, 0),
            "x read": ratio(i, 1),
        }
        for i, kind in enumerate(kinds)
    ]
    print(tabulate(rows, "keys", floatfmt=".2f"))
    write_json(rows, args.json)


if __name__ == "__main__":
    sys.exit(main())

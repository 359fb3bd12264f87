"""Time the loading of images: workers that live on against new ones, JPEGs at a fraction against whole ones.

python -m benchmarks.loading: photographs of noise of 500 x 375 to 2048 x 1536, CLIP's preprocessing to 224 pixels.
Both kinds are timed in turn in one process; ratios are of pairs.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import contextlib
import io
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

from benchmarks.measure import benchmark_parser, seconds_of, write_json
from dassl.config import get_cfg_default, merge_file, merge_pairs
from dassl.utils import command

SIZES = ((500, 375), (1024, 768), (2048, 1536))


def photographs(folder, size, count):
    """Write JPEGs of noise at all scales, which photographs have too; return them as a reader would."""
    from dassl.data.datasets import Datum  # here, as it imports torch, which takes seconds

    generator, items = np.random.default_rng(0), []
    for i in range(count):
        layers = [generator.normal(0, 30, (size[1] // step, size[0] // step, 3)) for step in (128, 32, 8, 2)]
        layers = [[Image.fromarray(channel).resize(size) for channel in np.moveaxis(x, 2, 0)] for x in layers]
        picture = 128 + sum(np.stack(layer, axis=2) for layer in layers)
        path = folder / f"{size[0]}_{i}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        items.append(Datum(str(path), label=i % 10))
    return items


def settings(**values):
    cfg = get_cfg_default()
    merge_file(cfg, "configs/backbones/vit_b16.yaml")
    merge_pairs(cfg, {f"DATALOADER.{key}": value for key, value in values.items()})
    return cfg


def epoch(loader):
    for _ in loader:
        pass


def compare(loaders, pairs):
    """Return the median seconds of an epoch of both loaders, and the median ratio, first to second."""
    for loader in loaders:
        epoch(loader)
    runs = [[seconds_of(lambda loader=loader: epoch(loader))[0] for loader in loaders] for _ in range(pairs)]
    return [*map(statistics.median, zip(*runs, strict=True)), statistics.median(a / b for a, b in runs)]


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each kind")
    parser.add_argument("--workers", type=int, default=2, help="processes that load")
    args = parser.parse_args(argv)
    from torch.utils.data import DataLoader, RandomSampler  # here, as torch takes seconds

    from dassl.data import DatasetWrapper
    from dassl.data.data_manager import build_data_loader
    from dassl.data.transforms import build_transform

    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        sources = {size: photographs(Path(folder), size, 40) for size in SIZES}
        few = sources[SIZES[0]] * 4
        cfg = settings(NUM_WORKERS=args.workers)
        transform = build_transform(cfg)
        ours = build_data_loader(cfg, "RandomSampler", few, 32, tfm=transform)
        wrapped = DatasetWrapper(cfg, few, transform=transform, is_train=True)
        new = DataLoader(wrapped, batch_size=32, sampler=RandomSampler(few), num_workers=args.workers)
        rows.append([f"{len(few)} training images: workers that live on / new ones", *compare((ours, new), args.pairs)])
        for size, source in sources.items():
            loaders = []
            for reduced in (True, False):
                cfg = settings(NUM_WORKERS=args.workers, REDUCED_JPEG=reduced)
                transform = build_transform(cfg, is_train=False)
                loaders.append(build_data_loader(cfg, data_source=source, batch_size=10, tfm=transform, is_train=False))
            what = f"{len(source)} test images of {size[0]} x {size[1]}: reduced / whole"
            rows.append([what, *compare(loaders, args.pairs)])
    headers = ["an epoch", "seconds of the first", "of the second", "ratio"]
    print(tabulate(rows, headers, floatfmt=".3f"))
    write_json([dict(zip(headers, row, strict=True)) for row in rows], args.json)


if __name__ == "__main__":
    sys.exit(main())

"""What the benchmarks share: their parser, a CLIP, a clock, and the file of the measurements."""

import json
import time

from dassl.utils import Parser

VIT_B16 = dict(embed_dim=512, image_size=224, patch_size=16, vision_width=768, vision_layers=12)
VIT_B16 |= dict(text_width=512, text_layers=12)


def benchmark_parser(description):
    """Return a parser with --json, which every benchmark has."""
    parser = Parser(description)
    parser.add_argument("--json", help="file for all measurements")
    return parser


def random_clip():
    """Return a frozen ViT-B/16 with random weights."""
    import torch  # here, as it takes seconds

    from sotglp import CLIP

    torch.manual_seed(0)
    return CLIP(**VIT_B16).requires_grad_(False).eval()


def seconds_of(call):
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def write_json(measurements, path):
    """Write measurements into a file, if a path is given."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(measurements, file, indent=1)

"""What the benchmarks share."""

import json
import time

VIT_B16 = dict(embed_dim=512, image_size=224, patch_size=16, vision_width=768, vision_layers=12)
VIT_B16 |= dict(text_width=512, text_layers=12)


def random_clip():
    """A ViT-B/16 with random weights, frozen."""
    import torch

    from sotglp import CLIP

    torch.manual_seed(0)
    return CLIP(**VIT_B16).requires_grad_(False).eval()


def seconds_of(call):
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def write_json(measurements, path):
    """Write measurements into a file, if there is to be one."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(measurements, file, indent=1)

"""A training step of SOT-GLP, against the same step with the text tower run over all 77 positions.

``python benchmarks/text_tower.py``: ViT-B/16 with random weights, 20 ImageNet class names, 4 images, 3 global and 4
local prompts, float32, CPU. Each measurement is a process of its own, the two kinds in turn; ratios are of pairs. The
step's memory is what the steps add to that of the process with libraries and model.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from tabulate import tabulate

CLASSES = (
    "tench, goldfish, great white shark, tiger shark, hammerhead shark, electric ray, stingray, rooster, hen, ostrich, "
    "brambling, goldfinch, house finch, junco, indigo bunting, American robin, bulbul, jay, magpie, chickadee"
).split(", ")
KEYS = ("seconds", "step", "process")
VIT_B16 = dict(embed_dim=512, image_size=224, patch_size=16, vision_width=768, vision_layers=12)


def encode_all_positions(self, embeddings, eot):
    """CLIP's text tower as published: every prompt padded to the full context, every position run to the end."""
    import torch

    padding = self.token_embedding.weight[0].expand(
        len(embeddings), len(self.positional_embedding) - embeddings.shape[1], -1
    )
    x = torch.cat([embeddings, padding], dim=1) + self.positional_embedding
    for block in self.transformer.resblocks:
        h = block.ln_1(x)
        x = block.add_mlp(x + block.attn.attend(*block.attn.project(h, h), is_causal=True))
    return self.ln_final(x)[torch.arange(len(x)), eot] @ self.text_projection


def peak_memory():
    """The largest resident size of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(kind, steps):
    """Seconds of the fastest step, GiB that the steps add at their peak, GiB of the whole process, first loss."""
    import torch

    import sotglp

    torch.manual_seed(0)
    if kind == "77 positions":
        sotglp.CLIP.encode_prompts = encode_all_positions
    clip = sotglp.CLIP(**VIT_B16, text_width=512, text_layers=12).requires_grad_(False).eval()
    model = sotglp.SOTGLP(clip, CLASSES)
    optimizer = torch.optim.SGD(model.learned.parameters(), lr=0.01, momentum=0.9)
    images, targets = torch.randn(4, 3, 224, 224), torch.arange(4)
    seconds, losses, before = [], [], peak_memory()
    for _ in range(steps):
        start = time.perf_counter()
        drawn = sotglp.draw_prompts(4, 3, 0.75)
        loss = sum(sotglp.sotglp_loss(model(images), targets, model.logit_scale, drawn))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    return {"seconds": min(seconds), "step": peak_memory() - before, "process": peak_memory(), "loss": losses[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=3, help="training steps in each process")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps)))
        return
    kinds, runs = ("sotglp", "77 positions"), []
    for pair in range(args.pairs):
        for kind in kinds:
            command = [sys.executable, __file__, "--steps", str(args.steps), "--measure", kind]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs.append({"kind": kind, **json.loads(output.splitlines()[-1])})
            print(f"pair {pair + 1} of {args.pairs}, {kind}: {runs[-1]['seconds']:.2f} s, {runs[-1]['step']:.2f} GiB")
    rows = []
    for kind in kinds:
        values = [run for run in runs if run["kind"] == kind]
        rows.append([kind, *(statistics.median(run[key] for run in values) for key in KEYS), values[0]["loss"]])
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    rows.append(["ratio, median of pairs", *(statistics.median(a[key] / b[key] for a, b in pairs) for key in KEYS), ""])
    headers = ["training step", "seconds", "GiB of the step", "GiB of the process", "first loss"]
    print(tabulate(rows, headers, floatfmt=".3f"))


if __name__ == "__main__":
    main()

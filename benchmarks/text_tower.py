"""A training step of SOT-GLP, against the same step with the text tower as published, and with less of ours.

``python benchmarks/text_tower.py``: ViT-B/16 with random weights, ImageNet class names, 4 images, 3 global and 4 local
prompts, float32, CPU. Each measurement is a process of its own, all kinds in turn; ratios are of those of one turn. The
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


def all_positions(self, embeddings, eot, deep=None, shared=0):
    """CLIP's text tower as published: every prompt padded to the full context, every position run to the end."""
    import torch

    from sotglp.clip import put

    prompts = embeddings.flatten(0, 1)
    missing = len(self.positional_embedding) - prompts.shape[1]
    padding = self.token_embedding.weight[0].expand(len(prompts), missing, -1)
    x = torch.cat([prompts, padding], dim=1) + self.positional_embedding
    for i, block in enumerate(self.transformer.resblocks):
        x = put(x, deep[i], 1) if deep and i in deep else x
        h = block.ln_1(x)
        x = block.add_mlp(x + block.attn.attend(*block.attn.project(h, h), is_causal=True))
    ends = eot.repeat_interleave(embeddings.shape[1])
    features = self.ln_final(x)[torch.arange(len(x)), ends] @ self.text_projection
    return features.unflatten(0, embeddings.shape[:2])


def without_sharing(encode):
    """Every position of every class is run."""
    return lambda self, embeddings, eot, deep=None, shared=0: encode(self, embeddings, eot, deep)


def without_lengths(encode):
    """All prompts take the time of the longest (and its result)."""
    return lambda self, embeddings, eot, *rest: encode(self, embeddings, eot.clamp(min=eot.max()), *rest)


def recomputing(encode):
    """In parts, which are run again in the backward pass, as if a quarter of a GiB were all that there is."""

    def run(self, *arguments):
        self.memory_budget = 2**28
        return encode(self, *arguments)

    return run


def unchanged(encode):
    return encode


PLAIN, KEPT = "77 positions", "kept features of images"
KINDS = {
    "sotglp": unchanged,
    KEPT: unchanged,
    "no shared positions": without_sharing,
    "no lengths": without_lengths,
    "budget of 0.25 GiB": recomputing,
    PLAIN: lambda encode: all_positions,
}


def peak_memory():
    """The largest resident size of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(kind, steps, n_classes):
    """Seconds of the fastest step, GiB that the steps add at their peak, GiB of the whole process, first loss."""
    import torch

    import sotglp

    torch.manual_seed(0)
    sotglp.CLIP.encode_prompts = KINDS[kind](sotglp.CLIP.encode_prompts)
    clip = sotglp.CLIP(**VIT_B16, text_width=512, text_layers=12).requires_grad_(False).eval()
    model = sotglp.SOTGLP(clip, [CLASSES[i % len(CLASSES)] for i in range(n_classes)])
    optimizer = torch.optim.SGD(model.learned.parameters(), lr=0.01, momentum=0.9)
    images, targets = torch.randn(4, 3, 224, 224), torch.arange(4)
    seconds, losses = [], []
    features = model.features(images) if kind == KEPT else None
    before = peak_memory()
    for _ in range(steps):
        start = time.perf_counter()
        drawn = sotglp.draw_prompts(4, 3, 0.75)
        match = model.match(features or model.features(images), model.encode_text())
        loss = sum(sotglp.sotglp_loss(match, targets, model.logit_scale, drawn))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    return {"seconds": min(seconds), "step": peak_memory() - before, "process": peak_memory(), "loss": losses[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=3, help="training steps in each process")
    parser.add_argument("--classes", type=int, nargs="+", default=[20], help="numbers of classes, the names repeated")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is measured")
    parser.add_argument("--json", help="file for all measurements")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps, *args.classes)))
        return
    runs = []
    for turn in range(args.turns):
        for n_classes in args.classes:
            for kind in args.kinds:
                command = [sys.executable, __file__, "--steps", str(args.steps), "--classes", str(n_classes)]
                output = subprocess.run([*command, "--measure", kind], check=True, capture_output=True, text=True)
                run = {"turn": turn, "classes": n_classes, "kind": kind, **json.loads(output.stdout.splitlines()[-1])}
                runs.append(run)
                told = f"turn {turn + 1} of {args.turns}, {n_classes} classes, {kind}"
                print(f"{told}: {run['seconds']:.2f} s, {run['step']:.2f} GiB", flush=True)
    rows = []
    for n_classes in args.classes:
        for kind in args.kinds:
            ours = [run for run in runs if (run["classes"], run["kind"]) == (n_classes, kind)]
            first = [run for run in runs if (run["classes"], run["kind"]) == (args.classes[0], args.kinds[0])]
            ratios = (statistics.median(a[key] / b[key] for a, b in zip(ours, first, strict=True)) for key in KEYS[:2])
            medians = (statistics.median(run[key] for run in ours) for key in KEYS)
            rows.append([n_classes, kind, *medians, *ratios, ours[0]["loss"]])
    headers = ["classes", "training step", "seconds", "GiB", "GiB, process", "x seconds", "x GiB", "first loss"]
    print(tabulate(rows, headers, floatfmt=".3f"))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(runs, file, indent=1)


if __name__ == "__main__":
    main()

"""A training step of SOT-GLP, against the same step as published, and without each part of what makes ours fast.

``python -m benchmarks.step``: ViT-B/16 with random weights, ImageNet's class names, 4 images, 3 global and 4 local
prompts; float32 on the CPU, mixed precision on a GPU. Each measurement is a process of its own, all kinds in turn;
ratios are of those of one turn. Memory is what the steps add at their peak: on the CPU to the process with libraries
and model, on a GPU to what is allocated. The share is of the speed of a large matrix product in the same process.

Exit code: 0 done, 2 a wrong argument, 130 interrupted, 1 something failed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from itertools import product

from tabulate import tabulate

from benchmarks.measure import random_clip, write_json


def all_positions(self, embed, eot, n_prompts=1, shared=0, deep=None):
    """CLIP's text tower as published: every prompt padded to the full context, every position run to the end."""
    import torch

    from sotglp.clip import put

    classes, places = torch.meshgrid(torch.arange(len(eot)), torch.arange(int(eot.max()) + 1), indexing="ij")
    device = self.positional_embedding.device
    prompts = embed(classes.to(device), places.to(device), 0).transpose(0, 1).flatten(0, 1)
    missing = len(self.positional_embedding) - prompts.shape[1]
    padding = self.token_embedding.weight[0].expand(len(prompts), missing, -1)
    x = torch.cat([prompts, padding], dim=1) + self.positional_embedding
    for i, block in enumerate(self.transformer.resblocks):
        x = put(x, deep[i], 1) if deep and i in deep else x
        h = block.ln_1(x)
        x = block.add_mlp(x + block.attn.attend(*block.attn.project(h, h), is_causal=True))
    ends = eot.repeat_interleave(n_prompts)
    features = self.ln_final(x)[torch.arange(len(x)), ends] @ self.text_projection
    return features.unflatten(0, (-1, n_prompts))


def plain():
    """All of the published computation: every position, every similarity held at once."""
    from sotglp import CLIP

    CLIP.encode_prompts = all_positions
    hold_all_similarities()


def run_shared_positions_for_each_class():
    from sotglp import CLIP

    encode = CLIP.encode_prompts
    CLIP.encode_prompts = lambda self, embed, eot, n_prompts, shared, deep: encode(self, embed, eot, n_prompts, 0, deep)


def pad_to_the_longest_name():
    import torch

    from sotglp import clip

    pack, clip.ROW = clip.pack, 0

    def padded(lengths, shared, device):
        rows = pack((max(lengths),) * len(lengths), shared, device)
        return rows._replace(ends=torch.tensor(lengths, device=device)[:, None] - 1)

    clip.pack = padded


def hold_all_similarities():
    from sotglp import matching

    matching.PART = sys.maxsize


def leave_transport_to_pytorch():
    from sotglp import kernels

    kernels.fits = lambda log_plan: False


SIZES = "classes", "images", "local"
PLAIN, KEPT, BUDGET, COMPILED = "as published", "kept features of images", "budget of 0.25 GiB", "compiled"
KINDS = {
    "sotglp": None,
    KEPT: None,
    "shared positions for each class": run_shared_positions_for_each_class,
    "padded to the longest name": pad_to_the_longest_name,
    "all similarities at once": hold_all_similarities,
    "transport by PyTorch": leave_transport_to_pytorch,
    BUDGET: None,
    COMPILED: None,
    PLAIN: plain,
}


def measure(kind, args):
    """Seconds of the fastest step, GiB that the steps add and at the peak, share of a matrix product's speed, loss."""
    import torch
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from torch.utils.flop_counter import FlopCounterMode

    import sotglp

    (n_classes,), (n_images,), (n_local,), device = args.classes, args.images, args.local, torch.device(args.device)
    on_gpu, seconds, losses = device.type == "cuda", [], []
    if KINDS[kind]:
        KINDS[kind]()
    with device:
        clip = random_clip()
        images, targets = torch.randn(n_images, 3, 224, 224), torch.arange(n_images) % n_classes
    if kind == BUDGET:
        clip.memory_budget = 2**28
    if kind == COMPILED:
        clip.visual.compile()
    model = sotglp.SOTGLP(clip, IMAGENET_CLASSNAMES[:n_classes], n_local=n_local).to(device)
    optimizer = torch.optim.SGD(model.learned.parameters(), lr=0.01, momentum=0.9)
    autocast = torch.autocast(device.type, torch.float16, enabled=on_gpu)

    def step():
        drawn = sotglp.draw_prompts(n_images, 3, 0.75, device)
        with autocast:
            match = model.match(features or model.features(images), model.encode_text())
            loss = sum(sotglp.sotglp_loss(match, targets, model.logit_scale, drawn))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    with torch.no_grad(), autocast:
        features = model.features(images) if kind == KEPT else None
    before = peak_memory(on_gpu)
    for _ in range(args.steps):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    memory = peak_memory(on_gpu) - before
    share = None
    if kind != BUDGET:  # counting operations holds what parts of the prompts would have given back
        with FlopCounterMode(display=False) as counter:
            step()
        share = counter.get_total_flops() / min(seconds) / matmul_speed(on_gpu)
    return dict(seconds=min(seconds), memory=memory, peak=before + memory, share=share, loss=losses[0])


def peak_memory(on_gpu):
    """The most that this process has held so far, in GiB: on a GPU of its memory."""
    import torch

    used = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    return used / 2**30


def matmul_speed(on_gpu):
    """Operations a second of a large matrix product."""
    import torch
    from torch.utils.benchmark import Timer

    size = 8192 if on_gpu else 2048
    a = torch.randn(size, size, device="cuda", dtype=torch.float16) if on_gpu else torch.randn(size, size)
    timer = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
    return 2 * size**3 / timer.blocked_autorange(min_run_time=1).median


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=3, help="training steps in each process")
    parser.add_argument("--classes", type=int, nargs="+", default=[20], help="numbers of classes")
    parser.add_argument("--images", type=int, nargs="+", default=[4], help="images of a batch")
    parser.add_argument("--local", type=int, nargs="+", default=[4], help="local prompts of a class")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    told = f"what is measured, of: {'; '.join(KINDS)}; all but {COMPILED}, if not given"
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help=told)
    parser.add_argument("--json", help="file for all measurements")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
        return
    kinds = args.kinds or [kind for kind in KINDS if kind != COMPILED]
    runs = []
    for turn in range(args.turns):
        for sizes in product(args.classes, args.images, args.local):
            for kind in kinds:
                told = "turn {} of {}, {} classes, {} images, {} local prompts, {}"
                told = told.format(turn + 1, args.turns, *sizes, kind)
                words = zip(SIZES + ("steps", "device"), (*sizes, args.steps, args.device), strict=True)
                command = [sys.executable, "-m", "benchmarks.step", "--measure", kind]
                command += [word for name, value in words for word in (f"--{name}", str(value))]
                output = subprocess.run(command, capture_output=True, text=True)
                if output.returncode:
                    print(f"{told}: {output.stderr.strip().splitlines()[-1]}", flush=True)
                    continue
                measured = json.loads(output.stdout.splitlines()[-1])
                runs.append({"turn": turn, **dict(zip(SIZES, sizes, strict=True)), "kind": kind, **measured})
                print(f"{told}: {measured['seconds']:.3f} s, {measured['memory']:.2f} GiB", flush=True)
    print(table(runs))
    write_json(runs, args.json)


def table(runs):
    """Medians for each size and kind, and ratios to the first."""
    groups = {}
    for run in runs:
        groups.setdefault((*(run[size] for size in SIZES), run["kind"]), {})[run["turn"]] = run
    rows, first = [], next(iter(groups.values()), {})
    for key, ours in groups.items():
        medians = (statistics.median(run[name] for run in ours.values()) for name in ("seconds", "memory"))
        ratios = (
            statistics.median(ours[turn][name] / first[turn][name] for turn in ours.keys() & first.keys())
            for name in ("seconds", "memory")
        )
        run = next(iter(ours.values()))
        rows.append([*key, *medians, *ratios, run["peak"], run["share"], run["loss"]])
    headers = ["C", "B", "N", "training step", "seconds", "GiB", "x time", "x GiB", "peak", "share", "loss"]
    return tabulate(rows, headers, floatfmt=".3f")


if __name__ == "__main__":
    main()

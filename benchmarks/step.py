"""Time a training step of SOT-GLP, the same step as published, and ours without each part that makes it fast.

python -m benchmarks.step: ViT-B/16 with random weights, ImageNet's class names, 4 images, 3 global and 4 local
prompts; float32 on the CPU, mixed precision on a GPU. Each measurement is a process of its own, all kinds in turn;
a ratio compares processes of one turn. Memory is what the steps add at their peak: on the CPU to the process with
libraries and model, on a GPU to what is allocated. The share is of the speed of a large matrix product in the same
process.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 a measurement failed (the others are printed).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import product
from unittest.mock import patch

from tabulate import tabulate

from benchmarks.measure import benchmark_parser, random_clip, write_json
from dassl.utils import command, peak_memory


def replace(owner, name, value):
    """Replace an attribute of a module or class for the rest of the process; it must exist."""
    patch.object(owner, name, value).start()


def all_positions(self, embed, eot, n_prompts=1, shared=0, deep=None, apart=False):
    """CLIP's text tower as published: every prompt padded to the full context, every position run to the end."""
    import torch  # here, as it takes seconds

    from sotglp.towers import put

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
    """Compute as published: run every position, hold all similarities at once."""
    from sotglp import CLIP

    replace(CLIP, "encode_prompts", all_positions)
    hold_all_similarities()


def run_shared_positions_for_each_class():
    from sotglp import CLIP

    encode = CLIP.encode_prompts

    def without_shared(self, embed, eot, n_prompts, shared, deep):
        return encode(self, embed, eot, n_prompts, 0, deep)

    replace(CLIP, "encode_prompts", without_shared)


def pad_to_the_longest_name():
    import torch

    from sotglp import clip, packing

    def padded(lengths, shared, device, apart=True):
        rows = packing.pack((max(lengths),) * len(lengths), shared, device, apart=True)
        return rows._replace(ends=torch.tensor(lengths, device=device)[:, None] - 1)

    replace(clip, "pack", padded)


def hold_all_similarities():
    from sotglp import matching

    replace(matching, "PART", sys.maxsize)


def leave_transport_to_pytorch():
    from sotglp import kernels

    replace(kernels, "fits", lambda log_plan: False)


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
    """Return what a kind's steps take, in this process.

    Returns:
        seconds of the fastest step; GiB that the steps add (memory) and of the process (peak); share of a matrix
        product's speed; loss of the first step.
    """
    import torch
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from torch.utils.flop_counter import FlopCounterMode

    from sotglp import draw_prompts
    from trainers.sotglp import SparseTransportCLIP, sotglp_loss

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
    model = SparseTransportCLIP(clip, IMAGENET_CLASSNAMES[:n_classes], n_local=n_local).to(device)
    optimizer = torch.optim.SGD(model.learned.parameters(), lr=0.01, momentum=0.9)
    autocast = torch.autocast(device.type, torch.float16, enabled=on_gpu)

    def step():
        drawn = draw_prompts(n_images, 3, 0.75, device)
        with autocast:
            match = model.match(features or model.features(images), model.encode_text())
            loss = sum(sotglp_loss(match, targets, model.logit_scale, drawn).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    with torch.no_grad(), autocast:
        features = model.features(images) if kind == KEPT else None
    held = "gpu" if on_gpu else "process"
    before = peak_memory(device)[held]
    for _ in range(args.steps):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    memory = peak_memory(device)[held] - before
    share = None
    if kind != BUDGET:  # a count of operations holds the memory that parts of the prompts would give back
        with FlopCounterMode(display=False) as counter:
            step()
        share = counter.get_total_flops() / min(seconds) / matmul_speed(on_gpu)
    return dict(seconds=min(seconds), memory=memory, peak=before + memory, share=share, loss=losses[0])


def matmul_speed(on_gpu):
    """Return the operations a second of a large matrix product."""
    import torch
    from torch.utils.benchmark import Timer

    size = 8192 if on_gpu else 2048
    a = torch.randn(size, size, device="cuda", dtype=torch.float16) if on_gpu else torch.randn(size, size)
    timer = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
    return 2 * size**3 / timer.blocked_autorange(min_run_time=1).median


def start(kind, sizes, args):
    """Return the finished process that measures a kind; it prints JSON."""
    words = zip(SIZES + ("steps", "device"), (*sizes, args.steps, args.device), strict=True)
    arguments = ["--measure", kind, *(word for name, value in words for word in (f"--{name}", str(value)))]
    return subprocess.run([sys.executable, "-m", "benchmarks.step", *arguments], capture_output=True, text=True)


@command
def main(argv=None):
    """Run the benchmark; return its exit code."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--turns", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=3, help="training steps in each process")
    parser.add_argument("--classes", type=int, nargs="+", default=[20], help="numbers of classes")
    parser.add_argument("--images", type=int, nargs="+", default=[4], help="images of a batch")
    parser.add_argument("--local", type=int, nargs="+", default=[4], help="local prompts of a class")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    kinds = f"kinds to measure, of: {'; '.join(KINDS)}; by default all but {COMPILED}"
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help=kinds)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
        return 0
    kinds = args.kinds or [kind for kind in KINDS if kind != COMPILED]
    runs, failed = [], 0
    for turn, *sizes, kind in product(range(args.turns), args.classes, args.images, args.local, kinds):
        what = "turn {} of {}, {} classes, {} images, {} local prompts, {}"
        what = what.format(turn + 1, args.turns, *sizes, kind)
        process = start(kind, sizes, args)
        if process.returncode:
            failed += 1
            error = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
            print(f"{what}: {error[-1]}", flush=True)
            continue
        measured = json.loads(process.stdout.splitlines()[-1])
        runs.append({"turn": turn, **dict(zip(SIZES, sizes, strict=True)), "kind": kind, **measured})
        print(f"{what}: {measured['seconds']:.3f} s, {measured['memory']:.2f} GiB", flush=True)
    print(table(runs))
    write_json(runs, args.json)
    return 1 if failed else 0


def table(runs):
    """Return a line for each size and kind: medians, and ratios to the first."""
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
    sys.exit(main())

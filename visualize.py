"""What a trained SOT-GLP looks at: ``python visualize.py RUN_FOLDER [images ...]``.

Draws a figure for each image, by default of some that the run was tested on. A row is a class: the predicted one, the
true one (of images in the run's predictions.csv), the runner-up. Its columns: the mean cosine of each patch with the
class's local prompts, and around the support; the partition of the support, where a patch has the colour of the prompt
with its largest share and a bar as long as that share; each prompt's share of each patch. A last figure, summary.png,
is about all images and their predicted classes: the entropy of how a patch is shared out, and the overlap of two
prompts, each for the transport plan and for prompts that each choose their own top K patches.

Exit code: 0 done, 2 a mistake of the user.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

import sotglp
import train
from dassl.evaluation import unique_names
from dassl.utils import UserError
from scripts.plots import OKABE_ITO, save
from scripts.runs import read_config, read_predictions
from sotglp.matching import own_support

FADED = ListedColormap(["#ffffff00", "#ffffffb0"])  # what is kept, and what is not
FRAME = {"fill": False, "edgecolor": "white", "linewidth": 1.2}  # around a patch of the support


class Seen(NamedTuple):
    """What the model makes of B images; P patches, C classes, N local prompts."""

    pixels: torch.Tensor  # (B, 3, S, S) in 0..1, as the model sees them
    probabilities: torch.Tensor  # (B, C)
    cosines: torch.Tensor  # (B, P, C), means over a class's prompts
    plan: torch.Tensor  # (B, C, P, N), 0 outside the support
    own: torch.Tensor  # (B, C, P, N), as the plan, of prompts that take the same of each of their own top K patches


def spread_out(support, values, n_patches):
    """Values (..., K, N) of kept patches, a support (..., K) or (..., K, N), on all of them: (..., P, N)."""
    support = support if support.dim() == values.dim() else support.unsqueeze(-1)
    everywhere = values.new_zeros(*values.shape[:-2], n_patches, values.shape[-1])
    return everywhere.scatter(-2, support.expand_as(values), values)


def shares(plan):
    """How each patch of a plan (..., P, N) is divided among the prompts: rows sum to 1, those not kept are NaN."""
    return plan / plan.sum(dim=-1, keepdim=True)


def partition(plan):
    """The prompt with the largest share of each patch of a plan (..., P, N), -1 if it is not kept, and that share."""
    share, prompt = shares(plan).max(dim=-1)
    return prompt.masked_fill(share.isnan(), -1), share


def entropy(plan):
    """Entropy of each kept patch's shares of a plan (..., P, N), over log N: 0 is one prompt's, 1 evenly shared."""
    kept = shares(plan)[plan.sum(dim=-1) > 0]
    return torch.special.entr(kept).sum(dim=-1) / math.log(max(kept.shape[-1], 2))


def overlap(plan):
    """How much two prompts share patches (..., N, N): the mass that both lay on the same patches, each having 1."""
    mass = plan / plan.sum(dim=-2, keepdim=True)
    return torch.minimum(mass.unsqueeze(-1), mass.unsqueeze(-2)).sum(dim=-3)


def load(run):
    """The predictor of a run's folder. Raises OSError or ValueError if it is none, or has no local prompts."""
    cfg = read_config(run).TRAINER
    if cfg.NAME != "SOTGLP" or not cfg.SOTGLP.N_LOCAL:
        raise UserError(
            f"{run} is a run of {cfg.NAME} without local prompts of each class: give one of SOTGLP that has some "
            "(TRAINER.SOTGLP.N_LOCAL from 1)"
        )
    return sotglp.load(run)


@torch.no_grad()
def look(predictor, images):
    """What a predictor makes of images (B, 3, S, S), as it preprocesses them -> Seen."""
    trainer = predictor.trainer
    model, cfg = trainer.model, trainer.cfg.INPUT
    with trainer.precision.autocast():
        features = model.features(images.to(trainer.device))
        match = trainer.match(features)
        own = own_support(model.to_joint(features[1], model.projection), predictor.text[1], model.topk)
    mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.PIXEL_MEAN, cfg.PIXEL_STD))
    pixels = images * std + mean if "normalize" in cfg.TRANSFORMS else images
    n_patches = match.s.shape[1]
    evenly = torch.ones_like(match.plan) / match.plan[0, 0].numel()
    return Seen(
        pixels.clamp(0, 1),
        trainer.probabilities(match)["combined"].cpu(),
        match.s.float().cpu(),
        spread_out(match.support, match.plan, n_patches).float().cpu(),
        spread_out(own, evenly, n_patches).float().cpu(),
    )


def rows_of(probabilities, truth):
    """{label: what it is called}: the predicted class, the true one (None: not known), the runner-up."""
    first, second = probabilities.topk(2).indices.tolist()
    roles = {first: ["predicted"]}
    if truth is not None:
        roles.setdefault(truth, []).append("true")
    roles.setdefault(second, []).append("runner-up")
    return {label: " and ".join(names) for label, names in roles.items()}


def colours(n_prompts):
    """Of prompts; those of more than seven come again."""
    return [OKABE_ITO[n % len(OKABE_ITO)] for n in range(n_prompts)]


def draw_image(seen, i, truth, names, path):
    """The figure of image i: truth is its label or None; names are those of the classes."""
    roles = rows_of(seen.probabilities[i], truth)
    side, n_prompts = math.isqrt(seen.cosines.shape[1]), seen.plan.shape[-1]
    columns = 3 + n_prompts
    figure = Figure(figsize=(2.05 * columns + 0.9, 2.15 * len(roles) + 0.9))
    axes = figure.subplots(len(roles), columns, squeeze=False)
    figure.subplots_adjust(left=0.03, right=0.93, top=1 - 0.62 / figure.get_figheight(), bottom=0.1, wspace=0.06)
    labels, extent = list(roles), (0, side, side, 0)
    cosines = seen.cosines[i][:, labels]
    plan = seen.plan[i, labels]
    largest = shares(plan).nan_to_num().max().item()
    for line, (label, role) in enumerate(roles.items()):
        row = axes[line]
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            show_picture(axis, seen, i)
        row[0].set_ylabel(f"{role}:\n“{names[label]}”, {seen.probabilities[i, label]:.0%}", fontsize=10)
        limits = {"vmin": cosines.min().item(), "vmax": cosines.max().item()}
        heat = row[1].imshow(
            cosines[:, line].view(side, side).numpy(), extent=extent, cmap="cividis", **limits, alpha=0.9
        )
        kept = (plan[line].sum(dim=-1) > 0).view(side, side)
        for y, x in kept.nonzero().tolist():
            row[1].add_patch(Rectangle((x, y), 1, 1, **FRAME))
        draw_partition(row[2], plan[line])
        for n in range(n_prompts):
            fade(row[3 + n], kept)
            share = shares(plan[line])[:, n].view(side, side).numpy()
            row[3 + n].imshow(share, extent=extent, cmap="viridis", vmin=0, vmax=largest, alpha=0.95)
    titles = ["picture", "mean cosine\n(frames: the support)", "partition among\nthe local prompts"]
    titles += [f"share of\nlocal prompt {n + 1}" for n in range(n_prompts)]
    for axis, title, colour in zip(axes[0], titles, ["black"] * 3 + colours(n_prompts), strict=True):
        axis.set_title(title, fontsize=10, color=colour)
    bottom = axes[-1][1].get_position()
    bar = figure.add_axes((bottom.x0, bottom.y0 - 0.03, bottom.width, 0.015))
    figure.colorbar(heat, cax=bar, orientation="horizontal", format="{x:.2g}").ax.tick_params(labelsize=8)
    bar.locator_params(nbins=4)
    keys = [Patch(color=colour, label=str(n + 1)) for n, colour in enumerate(colours(n_prompts))]
    axes[-1][2].legend(
        handles=keys, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=min(n_prompts, 4), fontsize=8, frameon=False,
        handlelength=1, columnspacing=1,
    )  # fmt: skip
    last = axes[-1][-1].get_position()
    bar = figure.add_axes((last.x1 + 0.01, last.y0, 0.008, axes[0][-1].get_position().y1 - last.y0))
    scale = ScalarMappable(cmap="viridis")
    scale.set_clim(0, largest)
    figure.colorbar(scale, cax=bar, format="{x:.0%}").set_label("share of the patch", fontsize=9)
    save(figure, path)


def show_picture(axis, seen, i):
    """Image i, a patch of which is 1 wide and high."""
    side = math.isqrt(seen.plan.shape[2])
    axis.imshow(seen.pixels[i].permute(1, 2, 0).numpy(), extent=(0, side, side, 0), interpolation="nearest")


def draw_partition(axis, plan):
    """The partition of a plan (P, N) on a picture: colours of prompts, and bars as long as their share of a patch."""
    side = math.isqrt(len(plan))
    prompt, sure = partition(plan)
    fade(axis, (prompt >= 0).view(side, side))
    for place in (prompt >= 0).nonzero().flatten().tolist():
        y, x = divmod(place, side)
        colour = colours(plan.shape[-1])[prompt[place]]
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, alpha=0.75, edgecolor="none"))
        axis.add_patch(Rectangle((x + 0.1, y + 0.72), 0.8, 0.18, color="white", alpha=0.45, linewidth=0))
        axis.add_patch(Rectangle((x + 0.1, y + 0.72), 0.8 * sure[place], 0.18, color="black", linewidth=0))
        axis.add_patch(Rectangle((x, y), 1, 1, **FRAME))


def draw_card(seen, i, titles):
    """A small Figure of image i: the picture, and the partition for each class of {label: title}."""
    figure = Figure(figsize=(1.5 * (1 + len(titles)), 1.75), layout="constrained")
    axes = figure.subplots(1, 1 + len(titles), squeeze=False)[0]
    for axis in axes:
        axis.set_axis_off()
        show_picture(axis, seen, i)
    for axis, (label, title) in zip(axes[1:], titles.items(), strict=True):
        draw_partition(axis, seen.plan[i, label])
        axis.set_title(title, fontsize=9)
    return figure


def fade(axis, kept):
    """Cover what is not kept of (side, side) patches with white."""
    axis.imshow((~kept).numpy(), extent=(0, kept.shape[1], kept.shape[0], 0), cmap=FADED)


def draw_summary(seen, path):
    """Entropy and overlap of the predicted classes of all images, with transport and with each prompt's own top K."""
    every = torch.arange(len(seen.pixels)), seen.probabilities.argmax(dim=1)
    plans = {"transport": seen.plan[every], "own top K": seen.own[every]}
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    left, *right = figure.subplots(1, 3, width_ratios=[1.4, 1, 1])
    values = [entropy(plan).numpy() for plan in plans.values()]
    weights = [[100 / len(value)] * len(value) for value in values]
    left.hist(values, bins=20, range=(0, 1), weights=weights, color=OKABE_ITO[:2], label=list(plans))
    left.set(
        xlabel="entropy of a patch's shares / log N\n(0: one prompt's, 1: evenly shared)", ylabel="% of the patches"
    )
    left.set_title("How a kept patch is shared out", fontsize=11)
    left.legend(frameon=False)
    left.spines[["top", "right"]].set_visible(False)
    for axis, (name, plan) in zip(right, plans.items(), strict=True):
        mean = overlap(plan).mean(dim=0)
        shown = axis.imshow(mean.numpy(), vmin=0, vmax=1, cmap="cividis")
        prompts = range(len(mean))
        for a in prompts if len(mean) <= 8 else ():
            for b in prompts:
                axis.text(b, a, f"{mean[a, b]:.2f}", ha="center", va="center", color="wk"[int(mean[a, b] > 0.5)])
        axis.set_xticks(prompts, [str(n + 1) for n in prompts])
        axis.set_yticks(prompts, [str(n + 1) for n in prompts])
        apart = mean[~torch.eye(len(mean), dtype=torch.bool)].mean() if len(mean) > 1 else 1.0
        axis.set_title(f"Overlap of prompts, {name}:\n{apart:.2f} between different ones", fontsize=11)
    figure.colorbar(shown, ax=right, shrink=0.85, label="overlap (1: the same patches)")
    figure.suptitle(f"{len(seen.pixels)} images, their predicted classes", fontsize=12)
    save(figure, path)


def labels_of(predictor):
    """{class name as in predictions.csv: label}."""
    return {name: label for label, name in unique_names(dict(enumerate(predictor.classnames))).items()}


def spaced(items, number):
    """So many of the items, evenly spaced, or all."""
    number = min(number, len(items))
    return [items[i * len(items) // number] for i in range(number)]


def parse_args(argv):
    parser = train.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run of SOTGLP")
    parser.add_argument("images", nargs="*", help="pictures; by default some of the run's test, evenly spaced")
    parser.add_argument("--number", type=int, default=6, help="of the test's images (6)")
    parser.add_argument("--out", type=Path, help="folder of the figures; by default prompts/ in the run's folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    if args.number < 1:
        raise UserError(f"--number must be 1 or more, got {args.number}")
    return args


def main(argv=None):
    """Run the script; return its exit code: 0, or 2 for a mistake of the user."""
    try:
        args = parse_args(argv)
        predictor = load(args.run)
        tested = {row["path"]: row["class"] for row in read_predictions(args.run)}
        paths = args.images or spaced(list(tested), args.number)
        if not paths:
            raise UserError(f"{args.run} has no predictions.csv that names the images of its test: give images")
        images = torch.stack([predictor.preprocess(path) for path in paths])
        out = args.out or args.run / "prompts"
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    names, label_of = predictor.classnames, labels_of(predictor)
    truths = {Path(path).resolve(): label_of.get(name) for path, name in tested.items()}
    seen = look(predictor, images)
    for i, path in enumerate(paths):
        target = out / f"{i + 1:02d}_{Path(path).stem}.png"
        draw_image(seen, i, truths.get(Path(path).resolve()), names, target)
        if not args.quiet:
            print(f"{target.name}: {path}, predicted {names[seen.probabilities[i].argmax().item()]!r}")
    draw_summary(seen, out / "summary.png")
    if not args.quiet:
        print(f"summary.png: all of them\nThe figures are in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Figures of how local prompts divide an image among them, for scripts.visualize and scripts.report."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from tqdm import tqdm

import sotglp
from dassl.evaluation import unique_names
from dassl.finished import FinishedRun
from dassl.utils import UserError
from datasets.scenes import patches_inside
from scripts.plots import OKABE_ITO, save
from sotglp.matching import own_support

FADED = ListedColormap(["#ffffff00", "#ffffffb0"])  # patches inside and outside the support
FRAME = {"fill": False, "edgecolor": "white", "linewidth": 1.2}  # around a patch of the support
WORDS = (
    "Overlap is the share of their mass that two prompts put on the same patches (1: all, 0: none), entropy how evenly "
    "prompts share a kept patch (1: evenly, 0: one has it), ± the deviation over images."
)
INSIDE, BATCH = 0.75, 100  # of a support, so that it counts as on the object; images at a time
BOX = {"fill": False, "edgecolor": "#d81b60", "linewidth": 1.6, "linestyle": "--"}  # around the object


class Seen(NamedTuple):
    """The model's outputs for B images; P patches, C classes, N local prompts.

    Attributes:
        pixels: (B, 3, S, S) in 0..1, the model's input.
        probabilities: (B, C).
        cosines: (B, P, C), means over a class's prompts.
        plan: (B, C, P, N), the transport plan, 0 outside the support.
        own: (B, C, P, N), the plan of prompts that each weigh their own top K patches equally.
    """

    pixels: torch.Tensor
    probabilities: torch.Tensor
    cosines: torch.Tensor
    plan: torch.Tensor
    own: torch.Tensor


def spread_out(support, values, n_patches):
    """Return values of the support as values of all patches, 0 elsewhere: (..., P, N).

    Args:
        support: indices of patches, (..., K) or (..., K, N).
        values: (..., K, N).
        n_patches: P.
    """
    support = support if support.dim() == values.dim() else support.unsqueeze(-1)
    everywhere = values.new_zeros(*values.shape[:-2], n_patches, values.shape[-1])
    return everywhere.scatter(-2, support.expand_as(values), values)


def shares(plan):
    """Return each prompt's share of each patch of a plan (..., P, N): rows sum to 1, or are NaN outside the support."""
    return plan / plan.sum(dim=-1, keepdim=True)


def partition(plan):
    """Return, for each patch of a plan (..., P, N), the prompt with the largest share, and this share.

    The prompt is -1 outside the support.
    """
    share, prompt = shares(plan).max(dim=-1)
    return prompt.masked_fill(share.isnan(), -1), share


def entropy(plan):
    """Return the entropy of the shares of each patch of a plan (..., P, N), divided by log N: (..., P).

    It is 0 if one prompt has the whole patch, 1 if all prompts have equal shares, and NaN outside the support.
    """
    return torch.special.entr(shares(plan)).sum(dim=-1) / math.log(max(plan.shape[-1], 2))


def overlap(plan):
    """Return how much pairs of prompts overlap, (..., N, N): their common mass, if each has a mass of 1.

    Args:
        plan: (..., P, N).
    """
    mass = plan / plan.sum(dim=-2, keepdim=True)
    return torch.minimum(mass.unsqueeze(-1), mass.unsqueeze(-2)).sum(dim=-3)


def between_prompts(overlaps):
    """Return the mean of overlaps (..., N, N) over the pairs of different prompts, (...); 1 for a single prompt."""
    number = overlaps.shape[-1]
    if number == 1:
        return overlaps[..., 0, 0]
    return overlaps[..., ~torch.eye(number, dtype=torch.bool)].mean(dim=-1)


def load(run):
    """Return the predictor of a run's folder.

    Raises:
        OSError, UserError: It is no run, or has no local prompts of each class.
    """
    cfg = FinishedRun(run).cfg.TRAINER
    if cfg.NAME != "SOTGLP" or not cfg.SOTGLP.N_LOCAL:
        raise UserError(
            f"{run} is a run of {cfg.NAME} without local prompts of each class: give a run of SOTGLP with "
            "TRAINER.SOTGLP.N_LOCAL 1 or more"
        )
    return sotglp.load(run)


@torch.no_grad()
def look(predictor, images):
    """Return the Seen of preprocessed images (B, 3, S, S)."""
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


def look_at_files(predictor, paths):
    """Yield some of the paths, and the Seen of these images, until all are seen."""
    for start in tqdm(range(0, len(paths), BATCH), desc="Overlap of prompts", leave=False, disable=None):
        some = paths[start : start + BATCH]
        yield some, look(predictor, torch.stack([predictor.preprocess(path) for path in some]))


def clearest(predictor, paths, boxes):
    """Return images sorted by how much the local prompts overlap in the plan of the predicted class, the least first.

    Args:
        predictor: of a run.
        paths: of images.
        boxes: {resolved Path: box of the object}, as datasets.scenes.read_boxes returns them; an image that has one is
            left out unless three quarters of its support have their centre in the box.
    """
    found = []
    for some, seen in look_at_files(predictor, paths):
        plan = seen.plan[torch.arange(len(some)), seen.probabilities.argmax(dim=1)]  # (B, P, N)
        for path, one, value in zip(some, plan, between_prompts(overlap(plan)).tolist(), strict=True):
            box, kept = boxes.get(Path(path).resolve()), one.sum(dim=-1) > 0
            if box is None or patches_inside([box], math.isqrt(len(kept)))[0][kept].mean() >= INSIDE:
                found.append((value, path))
    return [path for _, path in sorted(found)]


def rows_of(probabilities, truth):
    """Return {label: role} of the predicted class, the true class (unless it is None), and the runner-up."""
    first, second = probabilities.topk(2).indices.tolist()
    roles = {first: ["predicted"]}
    if truth is not None:
        roles.setdefault(truth, []).append("true")
    roles.setdefault(second, []).append("runner-up")
    return {label: " and ".join(names) for label, names in roles.items()}


def colours(n_prompts):
    """Return the colours of prompts, which repeat after the seventh."""
    return [OKABE_ITO[n % len(OKABE_ITO)] for n in range(n_prompts)]


def draw_image(seen, i, truth, names, path, box=None):
    """Draw the figure of an image.

    Args:
        seen: a Seen.
        i: index of the image.
        truth: its label, or None.
        names: names of the classes.
        path: Path of the figure.
        box: (left, top, right, bottom) of the object in the model's pixels, if it is known.
    """
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
    if box is not None:
        left, top, right, bottom = (length * side / seen.pixels.shape[-1] for length in box)
        for axis in axes.flat:
            axis.add_patch(Rectangle((left, top), right - left, bottom - top, **BOX))
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
    """Draw image i, scaled so that a patch is 1 wide and 1 high."""
    side = math.isqrt(seen.plan.shape[2])
    axis.imshow(seen.pixels[i].permute(1, 2, 0).numpy(), extent=(0, side, side, 0), interpolation="nearest")


def draw_partition(axis, plan):
    """Draw the partition of a plan (P, N) on an image: each patch with colour and number of its prompt.

    The share of this prompt is a bar.
    """
    side = math.isqrt(len(plan))
    prompt, sure = partition(plan)
    points = axis.get_window_extent().width / axis.figure.dpi * 72 / side  # of a patch
    look = {"fontsize": 0.55 * points, "color": "white", "ha": "center", "va": "center", "fontweight": "bold"}
    outline = [withStroke(linewidth=0.12 * points, foreground="black")]
    fade(axis, (prompt >= 0).view(side, side))
    for place in (prompt >= 0).nonzero().flatten().tolist():
        y, x = divmod(place, side)
        colour = colours(plan.shape[-1])[prompt[place]]
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, alpha=0.75, edgecolor="none"))
        axis.text(x + 0.5, y + 0.38, prompt[place].item() + 1, **look, path_effects=outline)
        axis.add_patch(Rectangle((x + 0.1, y + 0.72), 0.8, 0.18, color="white", alpha=0.45, linewidth=0))
        axis.add_patch(Rectangle((x + 0.1, y + 0.72), 0.8 * sure[place], 0.18, color="black", linewidth=0))
        axis.add_patch(Rectangle((x, y), 1, 1, **FRAME))


def draw_card(seen, i, titles):
    """Return a small Figure of image i: the image, and the partition for each class of {label: title}."""
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
    """Cover the patches that are not kept with white; `kept` is (side, side)."""
    axis.imshow((~kept).numpy(), extent=(0, kept.shape[1], kept.shape[0], 0), cmap=FADED)


class Division(NamedTuple):
    """How a kind of plan divides the supports of B images among N prompts.

    Attributes:
        entropies: (B, P) of the patches, NaN outside the support.
        overlaps: (B, N, N).
    """

    entropies: torch.Tensor
    overlaps: torch.Tensor

    def text(self):
        """Return mean and deviation over the images of overlap and entropy in words."""
        values = between_prompts(self.overlaps), self.entropies.nanmean(dim=1)
        means = [f"{v.mean():.2f}" + (f" ± {v.std():.2f}" if len(v) > 1 else "") for v in values]
        return f"overlap {means[0]}, entropy {means[1]}"


def divisions(parts):
    """Return {kind of plan: Division} for the predicted classes of all images of an iterable of Seen."""
    found = {"transport": [], "top-K mean": []}
    for seen in parts:
        every = torch.arange(len(seen.pixels)), seen.probabilities.argmax(dim=1)
        for of_kind, plan in zip(found.values(), (seen.plan[every], seen.own[every]), strict=True):
            of_kind.append((entropy(plan), overlap(plan)))
    return {name: Division(*map(torch.cat, zip(*of_kind, strict=True))) for name, of_kind in found.items()}


def draw_summary(of_kinds, path):
    """Draw entropy and overlap of what `divisions` returns."""
    figure = Figure(figsize=(12, 4.3), layout="constrained")
    left, *right = figure.subplots(1, 3, width_ratios=[1.4, 1, 1])
    values = [division.entropies[~division.entropies.isnan()].numpy() for division in of_kinds.values()]
    weights = [[100 / len(value)] * len(value) for value in values]
    left.hist(values, bins=20, range=(0, 1), weights=weights, color=OKABE_ITO[:2], label=list(of_kinds))
    left.set(xlabel="entropy of a patch's shares / log N", ylabel="% of the patches")
    left.set_title("How a kept patch is shared out", fontsize=11)
    left.legend(frameon=False)
    left.spines[["top", "right"]].set_visible(False)
    for axis, (name, division) in zip(right, of_kinds.items(), strict=True):
        mean = division.overlaps.mean(dim=0)
        shown = axis.imshow(mean.numpy(), vmin=0, vmax=1, cmap="cividis")
        prompts = range(len(mean))
        for a in prompts if len(mean) <= 8 else ():
            for b in prompts:
                axis.text(b, a, f"{mean[a, b]:.2f}", ha="center", va="center", color="wk"[int(mean[a, b] > 0.5)])
        axis.set_xticks(prompts, [str(n + 1) for n in prompts])
        axis.set_yticks(prompts, [str(n + 1) for n in prompts])
        axis.set_title(f"Overlap of prompts, {name}:\n{division.text()}", fontsize=10)
    figure.colorbar(shown, ax=right, shrink=0.85, label="overlap (1: the same patches)")
    number = len(division.overlaps)
    figure.suptitle("1 image, its predicted class" if number == 1 else f"{number} images, their predicted classes")
    figure.supxlabel(WORDS, fontsize=8)
    save(figure, path)


def labels_of(predictor):
    """Return {name of a class in predictions.csv: label}."""
    return {name: label for label, name in unique_names(dict(enumerate(predictor.classnames))).items()}

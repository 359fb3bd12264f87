"""What the local prompts of a trained SOT-GLP share out: ``python -m scripts.figure RUN_FOLDER [IMAGE]``.

Draws the picture, the support of the predicted class, and each local prompt's share of the transport plan.
Without IMAGE it takes one of the test set.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

import sotglp
from dassl.utils import read_image
from scripts.plots import save
from scripts.runs import load_trainer, read_config


def load_run(folder):
    """The trainer of a finished run, with its weights. Raises ValueError if it is no run of SOTGLP."""
    cfg = read_config(folder)
    if cfg.TRAINER.NAME != "SOTGLP":
        raise ValueError(f"{folder} is a run of {cfg.TRAINER.NAME}, which has no local prompts: give one of SOTGLP")
    return load_trainer(folder, cfg, cfg.OPTIM.MAX_EPOCH)


@torch.no_grad()
def shares(trainer, pixels):
    """Predicted class, the support's patches (K,) and how each is divided among the N local prompts (K, N)."""
    match = trainer.model(pixels[None].to(trainer.device))
    label = sotglp.predict(match, trainer.model.logit_scale).combined[0].argmax().item()
    plan = match.plan[0, label]
    return label, match.support[0, label].cpu(), (plan / plan.sum(dim=-1, keepdim=True)).cpu()


def patch_map(support, values, side):
    """Values of the kept patches on the grid of all, NaN elsewhere."""
    grid = torch.full((side * side,), float("nan"))
    grid[support] = values
    return grid.view(side, side)


def draw(picture, label, support, share, side, path):
    n_prompts = share.shape[1]
    figure = Figure(figsize=(2.2 * (2 + n_prompts) + 0.6, 2.8), layout="constrained")
    axes = figure.subplots(1, 2 + n_prompts)
    extent = (0, picture.width, picture.height, 0)
    for axis in axes:
        axis.imshow(picture, extent=extent, interpolation="nearest", alpha=1 if axis is axes[0] else 0.45)
        axis.set_axis_off()
    axes[0].set_title("picture")
    axes[1].set_title(f"support of\n“{label}”")
    axes[1].imshow(patch_map(support, 1.0, side), extent=extent, cmap="Greys_r", vmin=0, vmax=2, alpha=0.8)
    for n in range(n_prompts):
        axes[2 + n].set_title(f"share of\nlocal prompt {n + 1}")
        overlay = axes[2 + n].imshow(
            patch_map(support, share[:, n], side), extent=extent, cmap="viridis", vmin=0, vmax=share.max(), alpha=0.9
        )
    figure.colorbar(overlay, ax=list(axes[2:]), shrink=0.8, label="share of the patch", format="{x:.0%}")
    save(figure, path)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run of SOTGLP")
    parser.add_argument("image", nargs="?", help="a picture; by default the first of the test set")
    parser.add_argument("--out", type=Path, help="the figure; by default prompts.png in the run's folder")
    args = parser.parse_args(argv)
    try:
        trainer = load_run(args.run)
        picture = read_image(args.image or trainer.dm.dataset.test[0].impath)
    except (ValueError, OSError, UnidentifiedImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = trainer.model.clip.visual.image_size
    label, support, share = shares(trainer, trainer.test_loader.dataset.transform(picture))
    # What the model saw of it: the square in the middle.
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    patches = round(trainer.model.clip.visual.n_patches**0.5)
    path = args.out or args.run / "prompts.png"
    draw(picture, trainer.lab2cname[label], support, share, patches, path)
    print(f"Predicted {trainer.lab2cname[label]!r}; the figure is {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How well a trained run tells images of other kinds (OOD): ``python -m scripts.ood RUN_FOLDER [--sets SET ...]``.

Scores the images that the run was tested on (TEST.SPLIT), which are in-distribution, and those of each OOD set; prints
AUROC and FPR95 in percent, and writes them as ood.json beside the run's results.json, with histograms. The larger
score is the more out-of-distribution; FPR95 is the share of OOD images at or below the threshold that keeps 95 % of the
in-distribution ones, the positive class.

MCM, L-MCM and GL-MCM: arXiv 2211.13445, 2304.04521. A method that reads no patches gets those of GL-MCM, the last
block's values. A score that a method does not have leaves an empty cell.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

import train
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import auroc, fpr_at_95, threshold_at_95
from dassl.utils import UserError, write_json
from datasets.emoji import Emoji
from datasets.ood import OOD_SETS, read_ood
from scripts.runs import load_trainer, read_config
from sotglp import ood_scores
from sotglp.trainer import CLIPTrainer

SCORES = ("MCM", "L-MCM", "GL-MCM", "MaxLogit", "Energy")
METRICS = {"AUROC": auroc, "FPR95": fpr_at_95}
EMBEDDED = "Emoji"  # stands for the embedded pictures, each kind of which is a set
BINS = 40  # of a histogram
DEFAULT_SETS = {"Emoji": [EMBEDDED], "FashionMNIST": [EMBEDDED], "ImageNet": list(OOD_SETS)}


def embedded_sets(root):
    """{kind: list of Datum} of the embedded OOD pictures: flags, letters, clocks, textures, ..."""
    cfg = get_cfg_default()
    Emoji.extend_cfg(cfg)
    cfg.DATASET.ROOT = root
    sets = defaultdict(list)
    for item in Emoji(cfg).ood:
        sets[item.classname].append(item)
    return dict(sorted(sets.items()))


def read_sets(names, root):
    """{name: list of Datum}: a name is EMBEDDED, one of OOD_SETS under the root of the data sets, or a folder.

    Raises OSError or UserError if there is no such set, it holds no images, or two have the same name.
    """
    sets = {}
    for name in names:
        items = embedded_sets(root) if name == EMBEDDED else {(ood := read_ood(name, root))[0].classname: ood}
        shared = sorted(items.keys() & sets.keys())
        if shared:
            raise UserError(f"two OOD sets are called {shared[0]}: give each once, and folders of different names")
        sets.update(items)
    return sets


@torch.no_grad()
def score_images(trainer, batches, temperature, name):
    """{score: array (images,)} of the images of batches; in float32, since half precision makes ties.

    Raises UserError if not one image can be read.
    """
    scores = defaultdict(list)
    for batch in tqdm(batches, desc=name, leave=False, disable=None):
        match = trainer.match(trainer.parse_batch_test(batch)[0])
        for score, values in ood_scores(match, trainer.model.logit_scale, temperature).items():
            scores[score].append(values.cpu())
    if not scores:
        raise UserError(f"no image of {name} can be read")
    return {score: torch.cat(scores[score]).numpy() for score in SCORES if score in scores}


def histogram(inside, outside):
    """Counts of in-distribution and of OOD scores in BINS bins of equal width, and the threshold of FPR95."""
    both = np.concatenate([inside, outside])
    low, high = float(both.min()), float(both.max())
    counts = {name: np.histogram(x, BINS, (low, high))[0].tolist() for name, x in (("in", inside), ("out", outside))}
    return {"low": low, "high": high, **counts, "threshold": float(threshold_at_95(inside))}


@torch.no_grad()
def evaluate(trainer, sets, temperature=1.0):
    """What ood.json holds.

    trainer: a CLIPTrainer in evaluation; its model reads patches afterwards. sets: {name: list of Datum}.
    temperature: of MCM's softmax.
    Raises UserError if an image cannot be read.
    """
    cfg, model = trainer.cfg, trainer.model
    model.local = model.local or "value"
    trainer.text = model.encode_text()  # once for all images
    split = trainer.split_to_evaluate()
    inside = score_images(trainer, trainer.batches_to_evaluate(split), temperature, "in-distribution")
    images, results, outsides = {"in-distribution": len(next(iter(inside.values())))}, {}, []
    for name, items in sets.items():
        outside = score_images(trainer, trainer.encoded(trainer.loader_of(items)), temperature, name)
        outsides.append(outside)
        images[name] = len(next(iter(outside.values())))
        results[name] = {
            score: {metric: law(inside[score], outside[score]) for metric, law in METRICS.items()} for score in inside
        }
    average = {
        score: {metric: sum(result[score][metric] for result in results.values()) / len(results) for metric in METRICS}
        for score in inside
    }
    return {
        "temperature": temperature,
        "sets": results,
        "average": average,
        "histograms": {s: histogram(inside[s], np.concatenate([out[s] for out in outsides])) for s in inside},
        "images": images,
        "split": split,
        "patches": model.local if "L-MCM" in inside else None,
        "dataset": cfg.DATASET.NAME,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
    }


def table(results):
    """For each metric a table, in it a row for each set and their average, a column for each score."""
    texts = []
    for metric in METRICS:
        rows = [
            [name, results["images"].get(name), *(by.get(score, {}).get(metric) for score in SCORES)]
            for name, by in [*results["sets"].items(), ("average", results["average"])]
        ]
        texts.append(tabulate(rows, [metric, "images", *SCORES], floatfmt=".2f", maxcolwidths=[30]))
    return "\n\n".join(texts)


def parse_args(argv):
    parser = train.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument(
        "--sets",
        nargs="+",
        metavar="SET",
        help=f"{', '.join(OOD_SETS)}; {EMBEDDED}: the embedded pictures, by kind; or a folder of images. "
        "By default the embedded pictures for Emoji and FashionMNIST, the first four for ImageNet",
    )
    parser.add_argument("--root", help="folder of the data sets; by default the run's")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the softmax of MCM, L-MCM and GL-MCM")
    args = parser.parse_args(argv)
    if not 0 < args.temperature < float("inf"):
        raise UserError(f"--temperature must be a positive number, got {args.temperature}")
    return args


def main(argv=None):
    """Run the script; return its exit code: 0, or 2 for a mistake of the user."""
    user_errors = (ValueError, OSError)  # in the set-up these are about what the user gave
    try:
        args = parse_args(argv)
        cfg = read_config(args.run, *(["--root", args.root] if args.root else []))
        trainers = TRAINER_REGISTRY.registered_names()
        ours = [name for name in trainers if issubclass(TRAINER_REGISTRY.get(name), CLIPTrainer)]
        if cfg.TRAINER.NAME not in ours:
            raise UserError(f"{args.run} is a run of {cfg.TRAINER.NAME}: give one of {', '.join(ours)}")
        names = args.sets or DEFAULT_SETS.get(cfg.DATASET.NAME)
        if names is None:
            raise UserError(f"{cfg.DATASET.NAME} has no OOD sets of its own: name some with --sets (see --help)")
        sets = read_sets(names, cfg.DATASET.ROOT)
        best = cfg.TEST.FINAL_MODEL == "best_val"  # the weights that the run's results are of
        trainer = load_trainer(args.run, cfg, None if best else cfg.OPTIM.MAX_EPOCH)
        user_errors = UserError
        results = evaluate(trainer, sets, args.temperature)
    except user_errors as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(table(results))
    path = args.run / "ood.json"
    write_json(results, str(path))
    images, patches = results["images"]["in-distribution"], results["patches"] or "none"
    print(f"Against {images} in-distribution images ({results['split']}); patches: {patches}; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

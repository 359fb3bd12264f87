"""Published figures (published.csv, each with its source), and the choice of those comparable to ours."""

import csv
import statistics
from pathlib import Path

PUBLISHED = Path(__file__).with_name("published.csv")
PUBLISHED_BACKBONE = "ViT-B/16"
PUBLISHED_NAMES = {"OxfordFlowers": "Flowers102", "DescribableTextures": "DTD"}  # where they differ from ours
PUBLISHED_DATASETS = (  # those of Average_11
    *("ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "Flowers102", "Food101", "FGVCAircraft", "SUN397"),
    *("DTD", "EuroSAT", "UCF101"),
)


def read_published(path=PUBLISHED):
    """Return {(method, data set, shots): accuracy in %}, the first such figure of the file."""
    published, kind = {}, ("few_shot_all_classes", "top1", PUBLISHED_BACKBONE)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["protocol"], row["metric"], row["backbone"]) == kind:
                key = row["method"], row["dataset"], int(row["shots"])
                published.setdefault(key, float(row["value"]))
    return published


def published_row(published, name, groups, shots):
    """Return a method's published figures for groups of different data sets, and their average; None if missing.

    A figure applies to a group if its runs have the published backbone.

    Args:
        published: figures, as read_published returns them.
        name: the method's name there.
        groups: list of Group, one per data set.
        shots: number of shots; 0 for zero-shot.
    """
    names = [PUBLISHED_NAMES.get(group.dataset, group.dataset) for group in groups]
    applies = [group.backbone == PUBLISHED_BACKBONE for group in groups]
    figures = [
        published.get((name, dataset, shots)) if fits else None for dataset, fits in zip(names, applies, strict=True)
    ]
    if None not in figures:
        return figures, statistics.mean(figures)
    whole = sorted(names) == sorted(PUBLISHED_DATASETS) and all(applies)
    return figures, published.get((name, "Average_11", shots)) if whole else None

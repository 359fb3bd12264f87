"""Print the recipes of all methods and what of them is published: python -m scripts.recipes

The recipes stand in configs/trainers and in the trainers' defaults. scripts/recipes.csv holds what the methods' authors
published, with the sources. The command prints Markdown tables for docs/methods.md. A value with a star is ours.

Exit code: 0, or 130 interrupted.
"""

import csv
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

from yacs.config import CfgNode

from dassl.config import flatten, get_cfg_default, read_flat
from dassl.utils import Parser, command
from scripts.methods import CONFIGS, read_methods, read_yaml

RECORDS = Path(__file__).with_name("recipes.csv")
DATASETS = (
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
    *("sun397", "dtd", "eurosat", "ucf101"),
)
SHOTS = (1, 2, 4, 8, 16)
COLUMNS = {
    **{"optimizer": "OPTIM.NAME", "learning rate": "OPTIM.LR", "weight decay": "OPTIM.WEIGHT_DECAY"},
    **{"epochs": "OPTIM.MAX_EPOCH", "batch": "DATALOADER.TRAIN_X.BATCH_SIZE", "warm-up epochs": "OPTIM.WARMUP_EPOCH"},
}
UNTRAINED = ("TipAdapter", "GDA", "LinearProbe", "ZeroshotCLIP", "ZeroshotCLIP2")  # no steps: only the epochs count


class Recipe:
    """What a trainer does on each data set at each number of shots.

    Args:
        trainer: its class.

    Attributes:
        settings: {(data set, shots): {key: value}}, with data sets by their files in configs/datasets.
    """

    def __init__(self, trainer):
        self.trainer, self.node = trainer, f"TRAINER.{trainer.NODE}"
        cfg = get_cfg_default()
        trainer.extend_cfg(cfg)
        self.defaults = flatten(cfg)
        self.settings = {place: self.read(*place) for place in product(DATASETS, SHOTS)}

    def read(self, dataset, shots):
        """Return {key: value} of the configuration."""
        folder = CONFIGS / "trainers" / self.trainer.__name__
        files = [path for name in (dataset, "default") if (path := folder / f"{name}.yaml").is_file()][:1]
        own = {key: value for path in files for key, value in read_flat(path, shots).items()}
        return self.defaults | {key: CfgNode._decode_cfg_value(value) for key, value in own.items()}

    def value(self, key, dataset, shots):
        """Return the value of a key; of "templates" those of the text, between bars."""
        if key != "templates":
            return self.settings[dataset, shots][key]
        trainer = self.trainer.__new__(self.trainer)
        trainer.cfg = get_cfg_default()
        trainer.extend_cfg(trainer.cfg)
        trainer.cfg.DATASET.NAME = read_yaml(CONFIGS / "datasets" / f"{dataset}.yaml")["DATASET"]["NAME"]
        return " | ".join(trainer.templates)


class Records:
    """The published values, of which a later one replaces those before."""

    def __init__(self):
        self.rows = defaultdict(list)
        with RECORDS.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                self.rows[row["trainer"], row["key"]].append(row)

    def find(self, trainer, key, dataset, shots):
        """Return the record of a value, or None."""
        found = None
        for row in self.rows[trainer, key]:
            if dataset in (row["datasets"].split() or DATASETS) and str(shots) in (row["shots"].split() or str(shots)):
                found = row
        return found

    def sources(self, trainer):
        """Return the sources of a trainer's records, each once, in order."""
        own = (row for (name, _), rows in self.rows.items() if name == trainer for row in rows)
        return list(dict.fromkeys(row["source"] for row in own))


def same(value, text):
    """Return whether a value of the configuration is the recorded one."""
    recorded = CfgNode._decode_cfg_value(text)
    return list(value) == list(recorded) if isinstance(value, (list, tuple)) else value == recorded


def describe(recipe, records, key):
    """Return the text of a key's values over data sets and shots, with a star at those that are not published."""
    by_text = defaultdict(list)
    for dataset in DATASETS:
        of_shots = defaultdict(list)
        for shots in SHOTS:
            value = recipe.value(key, dataset, shots)
            record = records.find(recipe.trainer.__name__, key, dataset, shots)
            star = "" if record and same(value, record["value"]) else "\\*"
            of_shots[f"{plain(value)}{star}"].append(shots)
        *others, last = of_shots
        parts = [f"{text} at {listed(of_shots[text])}" for text in others]
        by_text[f"{last} ({', '.join(parts)} shots)" if parts else last].append(dataset)
    (usual, _), *exceptions = sorted(by_text.items(), key=lambda item: -len(item[1]))
    return "; ".join([usual, *(f"{', '.join(datasets)}: {text}" for text, datasets in exceptions)])


def listed(numbers):
    """Return the text of numbers: 1, 2 and 4."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def plain(value):
    """Return the text of a value in a table."""
    if isinstance(value, str):
        return value or '""'
    return f"{value:g}" if isinstance(value, float) else str(value)


def tables():
    """Return the Markdown of all tables."""
    import trainers  # noqa: F401 (registers them)
    from dassl.engine import TRAINER_REGISTRY

    records = Records()
    names = list(dict.fromkeys(method.trainer for method in read_methods().values()))
    recipes = [Recipe(TRAINER_REGISTRY.get(name)) for name in names]
    optimisation, settings, sources = [], [], []
    for recipe in recipes:
        name = recipe.trainer.__name__
        keys = [] if name in UNTRAINED else COLUMNS.values()
        cells = [describe(recipe, records, key) for key in keys]
        if cells:
            cells[1] += ", per step" if recipe.trainer.LR_MIN is not None else ""
            optimisation.append([f"`{name}`", *cells])
        node = [key for key in recipe.defaults if key.startswith(f"{recipe.node}.")]
        texts = [f"`{key.split('.')[-1]}` {describe(recipe, records, key)}" for key in node]
        settings.append([f"`{name}`", "<br>".join(texts)])
        found = records.sources(name)
        if found:
            sources.append([f"`{name}`", "<br>".join(found)])
    blocks = [
        markdown(["trainer", *COLUMNS], optimisation),
        markdown(["trainer", "settings"], settings),
        markdown(["data set", "hand-written templates"], templates(recipes, records)),
        markdown(["trainer", "sources"], sources),
    ]
    return "\n\n".join(blocks)


def markdown(headers, rows):
    """Return a Markdown table without padding, which would make its lines long."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headers, ["---"] * len(headers), *rows))


def templates(recipes, records):
    """Return the rows of the hand-written templates by data set, for the trainers with records of them."""
    chosen = [recipe for recipe in recipes if records.rows[recipe.trainer.__name__, "templates"]]
    rows = []
    for dataset in DATASETS:
        by_text = defaultdict(list)
        for recipe in chosen:
            name = recipe.trainer.__name__
            text, record = recipe.value("templates", dataset, 16), records.find(name, "templates", dataset, 16)
            by_text[f'"{text}"' + ("" if text == record["value"] else "\\*")].append(f"`{name}`")
        cells = [f"{text}: {', '.join(names)}" if len(by_text) > 1 else text for text, names in by_text.items()]
        rows.append([dataset, "<br>".join(cell.replace(" | ", '", "') for cell in cells)])
    return rows


@command
def main(argv=None):
    """Run the command and return its exit code."""
    Parser(__doc__).parse_args(argv)
    print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The files of configs/: their launch commands, bases and figures."""

import csv
import re
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[1] / "configs"
ROOT = CONFIGS.parent
FILES = sorted(CONFIGS.rglob("*.yaml"))
DATASETS = {path.stem: yaml.safe_load(path.read_text())["DATASET"]["NAME"] for path in CONFIGS.glob("datasets/*.yaml")}
METHODS = yaml.safe_load((CONFIGS / "comparisons" / "methods.yaml").read_text())
PUBLISHED_NAMES = {"OxfordFlowers": "Flowers102", "DescribableTextures": "DTD"}
EMBEDDED = ("fashion_mnist", "emoji", "scenes")

all_files = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))


def comment(path):
    """The comment at the top of a file, without its signs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("#")]


def first_name(trainer):
    """The name of a trainer's first method in methods.yaml."""
    return next(name for name, entry in METHODS.items() if entry["trainer"] == trainer)


@all_files
def test_opens_with_its_launch_command(path):
    opening = comment(path)[0]
    if path.name == "coop_schedule.yaml":
        assert opening.startswith("Not launched by itself")
        return
    command = re.fullmatch(r'(?:[A-Z]+=\w+ )*bash (scripts/\S+\.sh)(?: "([^"]+)")? (\w+) (\w+)(?: +#.*)?', opening)
    assert command, opening
    script, method, dataset, shots = command.groups()
    assert (ROOT / script).is_file()
    assert method is None or method in METHODS
    assert (dataset in DATASETS and shots.isdigit()) or re.fullmatch("DATASETS? SHOTS", f"{dataset} {shots}")
    if path.parent.name == "backbones":
        assert opening.startswith(f"BACKBONE={path.stem} ")
    elif path.parent.parent.name == "trainers":
        name = method or {"sotglp": "SOT-GLP, with projection", "coop": "CoOp, shared context"}[script.split("/")[1]]
        assert METHODS[name]["trainer"] == path.parent.name
        expected = {"default": ("DATASET",), "small": EMBEDDED}.get(path.stem, (path.stem,))
        assert dataset in expected


@all_files
def test_says_figures_and_time(path):
    text = " ".join(comment(path))
    if path.name != "coop_schedule.yaml":
        assert "Published" in text and "Time: " in text or path.parent.name == "backbones"


@all_files
def test_bases_end_at_a_file_without_one(path):
    chain = [path]
    while base := yaml.safe_load(chain[-1].read_text(encoding="utf-8")).get("_BASE_"):
        assert chain[-1].read_text(encoding="utf-8").splitlines()[len(comment(chain[-1]))] == f"_BASE_: {base}"
        chain.append((chain[-1].parent / base).resolve())
        assert chain[-1].is_relative_to(CONFIGS) and chain[-1] not in chain[:-1]
    if path.parent.parent.name == "trainers" and path.stem != "default":
        assert path.with_name("default.yaml") in chain


def test_a_method_has_one_file_for_the_small_clip():
    assert not [path for path in CONFIGS.glob("trainers/*/*.yaml") if path.stem in EMBEDDED]


@all_files
def test_published_figures_are_those_of_the_list(path):
    with (ROOT / "scripts" / "published.csv").open(newline="", encoding="utf-8") as file:
        wanted = ("few_shot_all_classes", "top1", "ViT-B/16", "16")
        columns = ("protocol", "metric", "backbone", "shots")
        rows = [row for row in csv.DictReader(file) if tuple(row[column] for column in columns) == wanted]
    name = DATASETS.get(path.stem, "Average_11")
    for line in comment(path):
        if not (line.startswith("Published") and "%" in line):
            continue
        source = line.rpartition("(")[2].partition(")")[0].removesuffix(", third party").removeprefix("quoted in ")
        dataset = "ImageNet" if "on ImageNet" in line else PUBLISHED_NAMES.get(name, name)
        figures = re.findall(r"(\S+) ([\d.]+) %", line)
        assert figures
        for method, figure in figures:
            prefix = plain(path.parent.name if path.parent.parent.name == "trainers" else method)
            assert any(
                (row["dataset"], row["value"]) == (dataset, figure)
                and source in row["source"]
                and plain(row["method"]).startswith(prefix)
                for row in rows
            ), line


def plain(name):
    """A name in small letters and digits alone; "++" is read as pp."""
    return re.sub(r"[\W_]", "", name.replace("+", "p")).lower()


@all_files
def test_measured_figures_are_those_of_the_pages(path):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    rows = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    method = first_name(path.parent.name if path.parent.parent.name == "trainers" else "SOTGLP")
    for line in comment(path):
        if line.startswith("Measured"):
            figures = re.findall(r"\d+\.\d ± \d+\.\d", line)
            assert figures and any(
                row.removeprefix(f"| {method}").startswith((" |", " † |")) and all(figure in row for figure in figures)
                for row in rows
            ), line

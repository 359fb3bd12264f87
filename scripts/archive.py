"""Write the results of all finished runs below a folder, for others: python -m scripts.archive FOLDER > results.jsonl

Each line is a JSON object about a run, or about a test of its weights on other images:

method, trainer, variant      the method: name in the list of methods, trainer, folder of the results
dataset, shots, seed          the images that it learned from
protocol                      published or strict (docs/protocols.md)
trained_on, tested_on         data set, classes (all, base or new) and domains (none: all)
metrics, ood                  of the tested images, with the accuracy of each class; of OOD detection, if it was run
config_hash                   identifies all settings that can change a result
split_hash                    identifies the images: paths below the data sets' folder, and labels
backbone_hash, learned_hash   identify the file of CLIP's weights, and the checkpoints of what was learned
seconds, peak_gib, learned_parameters, epochs, device, threads, versions, git

scripts.compare and scripts.table show such a file beside own runs: --archive results.jsonl

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from dassl.finished import FinishedRun
from dassl.utils import Parser, UserError, command, hash_file
from scripts.groups import Group, method_of, read_ood, title, with_lacking
from scripts.methods import Method, shots_text, unique

KEPT = (  # of results.json
    *("shots", "seed", "protocol", "backbone", "epochs", "metrics", "seconds", "peak_gib", "learned_parameters"),
    *("device", "threads", "versions", "git", "config_hash", "backbone_hash"),
)
OOD = ("sets", "average", "near", "full spectrum", "images")  # of ood.json: no histograms, and no paths
NEEDED = ("method", "trainer", "variant", "dataset", "trained_on", "tested_on", "split_hash", *KEPT)  # to show it


def line_of(path):
    """Return a line about the results.json of a run, or of a test in the folder test/ of a run."""
    tested = FinishedRun(path.parent)
    run = FinishedRun(path.parents[2]) if path.parents[1].name == "test" else tested
    variant = run.folder.parent.name
    images, digits = tested.settings(), tested.results.get("split_hash", {})
    ood = read_ood(tested.folder)
    return {
        **{"method": method_of(run.results, variant).name, "trainer": run.results["trainer"], "variant": variant},
        "dataset": run.results["dataset"],
        "trained_on": place(run.results["dataset"], run.settings(), "SOURCE_DOMAINS"),
        "tested_on": {
            **place(tested.results["dataset"], images, "TARGET_DOMAINS"),
            "split": images.get("TEST.SPLIT", "test"),
        },
        **{key: tested.results.get(key) for key in KEPT},
        **{key: run.results.get(key) for key in ("shots", "seed", "epochs")},
        "ood": {part: ood[part] for part in OOD if part in ood} or None,
        "split_hash": {**digits, "train": run.results.get("split_hash", {}).get("train")} if digits else None,
        "learned_hash": {file.parent.name: hash_file(file) for file in run.weights()},
    }


def place(dataset, settings, domains):
    """Return a data set, and the part of its classes and domains that settings choose."""
    classes = settings.get("DATASET.SUBSAMPLE_CLASSES", "all")
    return {"dataset": dataset, "classes": classes, "domains": list(settings.get(f"DATASET.{domains}", []))}


def lines_of(folder):
    """Return the lines of an archive of all finished runs below a folder, and of the tests of their weights.

    Raises:
        UserError: There is no finished run.
    """
    paths = sorted([*folder.rglob("seed*/results.json"), *folder.rglob("seed*/test/*/results.json")])
    if not paths:
        raise UserError(f"no finished run (seed*/results.json) below {folder}: run scripts/compare.sh first")
    return [json.dumps(line_of(path), ensure_ascii=False) for path in paths]


def read_archive(path):
    """Return the lines of an archive about few-shot classification, as a list of dicts.

    Raises:
        UserError: The file cannot be read, or a line is no line of this command.
    """
    try:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            lacking = [key for key in NEEDED if key not in line]
            lines += [line] if not lacking and is_few_shot(line) else []
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}, is no line of scripts.archive") from error
        if lacking:
            raise UserError(f"{path}, line {number}, lacks {', '.join(lacking)}: make it anew with scripts.archive")
    return lines


def is_few_shot(line):
    """Return whether a line is about all classes and domains of a data set, learned and tested."""
    learned, tested = line["trained_on"], line["tested_on"]
    whole = all(each["classes"] == "all" and not each["domains"] for each in (learned, tested))
    return whole and learned["dataset"] == tested["dataset"]


def groups_in(path):
    """Return the Groups of few-shot runs in an archive, with the file's name behind the method's.

    Raises:
        UserError: As of read_archive, or two lines are about the same run.
    """
    groups = {}
    for line in read_archive(path):
        trained = line["epochs"] is not None
        method = Method(line["method"], line["trainer"], line["variant"], trained=trained).by(line["protocol"])
        method = replace(method, name=f"{method.name} ({Path(path).stem})")
        key = method, line["dataset"], line["shots"], line["backbone"]
        runs = groups.setdefault(key, Group(*key[:3], [], {})).runs
        if line["seed"] in runs:
            where = f"{line['method']} on {line['dataset']}, {shots_text(line['shots'])}, seed {line['seed']}"
            raise UserError(f"{path} has two lines about {where}: leave one out")
        runs[line["seed"]] = line
    return [replace(group, seeds=sorted(group.runs)) for group in groups.values()]


def beside(groups, archives):
    """Return groups with those of archives that have the same data sets, numbers of shots and backbones.

    Args:
        groups: our Groups.
        archives: paths of files.

    Raises:
        UserError: An archive has none of them, or a run does not say on which images it was made.
    """
    if not archives:
        return groups
    ours = {(group.dataset, group.shots, group.backbone) for group in groups if group.runs}
    all_groups = list(groups)
    for path in archives:
        theirs = [group for group in groups_in(path) if (group.dataset, group.shots, group.backbone) in ours]
        if not theirs:
            wanted = "; ".join(unique(title([group]) for group in groups if group.runs))
            raise UserError(f"{path} has no few-shot run on {wanted}: leave it out")
        all_groups += theirs
    for group in all_groups:
        if not all(run.get("split_hash") for run in group.runs.values()):
            where = f"{group.method.name} on {title([group])}"
            raise UserError(f"{where}: results.json of an earlier version does not say on which images: run it again")
    return with_lacking(all_groups)


def add_archives(parser):
    """Let a parser take files of this command."""
    parser.add_argument(
        "--archive",
        action="append",
        default=[],
        metavar="FILE",
        help="show results of others, a file of scripts.archive, beside ours; may be repeated",
    )


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder with the runs at any depth, such as output")
    return parser.parse_args(argv)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    print("\n".join(lines_of(parse_args(argv).folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

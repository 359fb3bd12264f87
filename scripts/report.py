"""Write a page about all finished runs below a folder: python -m scripts.report OUTPUT_FOLDER [--out report.html]

The page is one HTML file that needs no network. Its head says which method leads, by how much, and what ran where. Then
come tables (a click on a header sorts them), the plots of scripts.plots, the accuracy of each class, paired comparisons
with McNemar's test, calibration, training curves, confusion matrices, the hardest images, histograms of OOD scores, the
settings that differ, and the commands of the runs. Below the contents the page names the sections that have no data,
and what makes them.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted.
"""

import os
import shlex
import sys
from collections import defaultdict
from functools import partial
from html import escape
from pathlib import Path
from string import Template

from tqdm import tqdm

from dassl.utils import Parser, UserError, command, replacing, user_input
from scripts.groups import read_groups, read_runs, title
from scripts.methods import PROTOCOLS, read_methods

TEMPLATE = Path(__file__).with_name("report.html")


def find_groups(folder):
    """Return the comparisons below a folder, each as a list of Groups in the order of the list of methods.

    The runs of a comparison have the same backbone, and the folders of their methods are in the same folder.

    Raises:
        UserError: There is no finished run.
    """
    comparisons = defaultdict(list)
    for place in sorted({path.parents[1] for path in folder.rglob("seed*/results.json")}):
        run = next(iter(read_runs(place).values()))
        comparisons[place.parents[2], run["backbone"]].append(place)
    if not comparisons:
        raise UserError(f"no finished run (seed*/results.json) below {folder}: run scripts/compare.sh first")
    methods = read_methods().values()
    order = {method.by(protocol): i for protocol in PROTOCOLS for i, method in enumerate(methods)}
    return [
        sorted(read_groups(places), key=lambda group: order.get(group.method, len(order)))
        for places in comparisons.values()
    ]


def page(folder, command, quiet=False):
    """Return the HTML page of all finished runs below a folder.

    Args:
        folder: Path of the folder.
        command: the command that makes the page.
        quiet: whether to hide the progress bar.

    Raises:
        UserError: There is no finished run.
    """
    comparisons = find_groups(folder)
    from scripts import report_calibration, report_hardest, report_head, report_pairs  # here, as these import torch
    from scripts import report_sections as make

    contents, body = [], []
    for number, groups in enumerate(comparisons):
        predictions = make.predictions_of(groups)
        sections = {
            "Results": (partial(make.tables, groups), ""),
            "Plots": (partial(make.drawn_plots, groups), "a method with all its runs"),
            "Classes": (partial(make.classes, groups), "accuracy per class in results.json"),
            "Paired comparison": (partial(report_pairs.pairs, groups, predictions), "predictions.csv of two methods"),
            "Calibration": (partial(report_calibration.calibration, groups, predictions), "predictions.csv"),
            "Training curves": (partial(make.curves, groups), "tensorboard/ of a run that trained"),
            "Confusion matrices": (partial(make.confusions, groups, predictions), "predictions.csv"),
            "Hardest images": (partial(report_hardest.hardest, groups, predictions), "mistakes in predictions.csv"),
            "OOD detection": (partial(make.ood, groups), "ood.json, which python -m scripts.ood RUN_FOLDER writes"),
            "Settings that differ": (partial(make.settings, groups), "a key that two methods read differently"),
            "Commands": (partial(report_head.commands, groups), "commands in results.json"),
        }
        if len(comparisons) > 1:
            body.append(f"<h1>{escape(title(groups))}</h1>")
            contents.append(f"<h2>{escape(title(groups))}</h2>")
        links, without = [], []
        for name, (section, needs) in tqdm(sections.items(), desc=title(groups), leave=False, disable=quiet or None):
            if content := section():
                key = f"{name.split()[0].lower()}-{number}"
                links.append(f'<li><a href="#{key}">{name}</a></li>')
                body.append(f'<section id="{key}"><h2>{name}</h2>{content}</section>')
            else:
                without.append(f"{name} (needs {escape(needs)})")
        contents.append(f"<ul>{''.join(links)}</ul>")
        if without:
            contents.append(f"<p>Left out: {'; '.join(without)}.</p>")
    heading = f"Report of {escape(folder.resolve().name)}"
    navigation = f'<nav aria-label="Contents">{"".join(contents)}</nav>'
    parts = [f"<h1>{heading}</h1>", report_head.head(comparisons, command), navigation, *body]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=heading, body="\n".join(parts))


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder with the runs at any depth, such as output/fashion_mnist")
    parser.add_argument("--out", type=Path, help="file of the page; by default report.html in that folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_args(argv)


@command
def main(argv=None):
    """Run the command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    args = parse_args(words)
    out = args.out or args.folder / "report.html"
    with user_input():
        content = page(args.folder, shlex.join(["python", "-m", "scripts.report", *words]), args.quiet)
        with replacing(out) as file:
            file.write(content)
    if not args.quiet:
        print(f"The page is {out} ({os.path.getsize(out) / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

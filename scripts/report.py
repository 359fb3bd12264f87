"""Write a page about all finished runs below a folder: python -m scripts.report OUTPUT_FOLDER [--out report.html]

The page is one HTML file that needs no network. It has tables (a click on a header sorts them), the plots of
scripts.plots, training curves, confusion matrices, the hardest images, histograms of OOD scores, and the settings that
differ. A section without data names the missing file and the command that writes it.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted.
"""

import os
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


def page(folder, quiet=False):
    """Return the HTML page of all finished runs below a folder.

    Args:
        folder: Path of the folder.
        quiet: whether to hide the progress bar.

    Raises:
        UserError: There is no finished run.
    """
    comparisons = find_groups(folder)
    from scripts import report_hardest  # here, because these import torch
    from scripts import report_sections as make

    heading = f"Report of {escape(folder.resolve().name)}"
    parts = [f"<h1>{heading}</h1>"]
    for groups in comparisons:
        predictions = make.predictions_of(groups)
        sections = {
            "Results": partial(make.tables, groups),
            "Plots": partial(make.drawn_plots, groups),
            "Training curves": partial(make.curves, groups),
            "Confusion matrices": partial(make.confusions, groups, predictions),
            "Hardest images": partial(report_hardest.hardest, groups, predictions),
            "OOD detection": partial(make.ood, groups),
            "Settings": partial(make.settings, groups),
        }
        if len(comparisons) > 1:
            parts.append(f"<h1>{escape(title(groups))}</h1>")
        progress = tqdm(sections.items(), desc=title(groups), leave=False, disable=quiet or None)
        parts += [f"<section><h2>{name}</h2>{section()}</section>" for name, section in progress]
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
    args = parse_args(argv)
    out = args.out or args.folder / "report.html"
    with user_input():
        content = page(args.folder, args.quiet)
        with replacing(out) as file:
            file.write(content)
    if not args.quiet:
        print(f"The page is {out} ({os.path.getsize(out) / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One page about all finished runs below a folder: ``python report.py OUTPUT_FOLDER [--out report.html]``.

The page needs no network and no other file: tables that a click on a header sorts, the plots of scripts/plots.py,
training curves, confusion matrices, the hardest images, histograms of OOD scores, and the settings that differ.
Runs without predictions.csv or ood.json lack what is made of these, and the page says so.

Exit code: 0 done, 2 a mistake of the user.
"""

import argparse
import base64
import contextlib
import html
import io
import json
import math
import os
import sys
import tempfile
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

import train
import visualize
from dassl.config import read_flat
from dassl.utils import UserError, read_image, replacing
from scripts import plots, table
from scripts.run import read_methods, shots_text, unique
from scripts.runs import read_predictions

TEMPLATE = Path(__file__).parent / "scripts" / "report.html"
OF_A_RUN = ("SEED", "OUTPUT_DIR", "RESUME", "DATASET.NAME", "DATASET.NUM_SHOTS", "INPUT.FEATURE_")
NAMED = 30  # classes that a confusion matrix names
HARDEST = 12
POINTS = 60  # of a training curve


def find_groups(folder):
    """[[Group]] of the finished runs below a folder, a list for each comparison, and {Group's place: its folder}.

    Runs of one comparison lie below the same folder and have the same backbone.
    Raises ValueError if there is none.
    """
    comparisons = defaultdict(list)
    for place in sorted({path.parents[1] for path in folder.rglob("seed*/results.json")}):
        run = next(iter(table.read_runs(place).values()))
        comparisons[place.parents[2], run["backbone"]].append(place)
    if not comparisons:
        raise UserError(f"no finished run (seed*/results.json) below {folder}: run scripts/compare.sh first")
    groups, folders = [], {}
    order = {method: i for i, method in enumerate(read_methods().values())}
    for places in comparisons.values():
        found = table.read_groups(places)
        folders.update({id(group): place for group, place in zip(found, places, strict=False)})
        groups.append(sorted(found, key=lambda group: order.get(group.method, len(order))))
    return groups, folders


def text(value):
    return html.escape(str(value))


def data_uri(png):
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def picture(source, alt, caption=""):
    """An image of a Figure, or of a file's bytes."""
    if isinstance(source, Figure):
        buffer = io.BytesIO()
        source.savefig(buffer, format="png", dpi=110)
        source = buffer.getvalue()
    caption = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{data_uri(source)}" alt="{text(alt)}">{caption}</figure>'


def grid(figures, kind="grid"):
    return f'<div class="{kind}">{"".join(figures)}</div>'


def make_table(caption, headers, rows):
    """A sortable table; a cell is a value, or a (value to sort by, text)."""
    head = "".join(f'<th scope="col"><button type="button">{text(header)}</button></th>' for header in headers)
    lines = []
    for row in rows:
        cells = [cell if isinstance(cell, tuple) else (cell, cell) for cell in row]
        values = [("" if value is None else value, "" if shown is None else shown) for value, shown in cells]
        lines.append("".join(f'<td data-value="{text(value)}">{text(shown)}</td>' for value, shown in values))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    caption = f"<caption>{text(caption)}</caption>"
    whole = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{whole}</div>'


def tables(groups):
    """Means over seeds, a table for each number of shots, and all runs."""
    parts = []
    for shots in unique(group.shots for group in groups):
        of_shots = [group for group in groups if group.shots == shots]
        headers, rows = table.make_table(of_shots)
        filled = [i for i in range(len(headers)) if i == 0 or any(row[i].text() for row in rows)]
        lines = [[row[0], *((row[i].mean, row[i].text()) for i in filled[1:])] for row in rows]
        parts.append(make_table(table.caption(of_shots), [headers[i] for i in filled], lines))
    headers = ["method", "data set", "shots", "seed", "accuracy", "macro F1", "epochs", "seconds"]
    lines = [
        [group.method.name, group.dataset, group.shots, seed, *numbers(run)]
        for group in groups
        for seed, run in group.runs.items()
    ]
    return "".join([*parts, make_table("All runs", headers, lines)])


def numbers(run):
    percent = [(value, "" if value is None else f"{value:.2f}") for value in map(run["metrics"].get, METRICS)]
    return [*percent, run.get("epochs"), run["seconds"]]


METRICS = ("accuracy", "macro_f1")


def drawn_plots(groups):
    """The pictures that a comparison has anyway."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        names = plots.draw_all(groups, Path(folder))
        return grid(picture((Path(folder) / name).read_bytes(), f"plot: {name}") for name in names)


def curves(groups, folders):
    """Loss and accuracy of the training batches, means over the seeds, from the runs' TensorBoard files."""
    figures, look = [], plots.styles(groups)
    for dataset, shots in unique((group.dataset, group.shots) for group in groups):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = dict(zip(("train/loss", "train/acc"), figure.subplots(1, 2), strict=True))
        for group in groups:
            if (group.dataset, group.shots) == (dataset, shots) and id(group) in folders:
                runs = [scalars(folders[id(group)] / f"seed{seed}" / "tensorboard") for seed in group.runs]
                for tag, axis in axes.items():
                    lines = [run[tag] for run in runs if tag in run]
                    if lines and len({len(line) for line in lines}) == 1:
                        steps, values = thin(np.mean(lines, axis=0))
                        axis.plot(steps, values, color=look[group.method]["color"], label=group.method.name)
        if not any(axis.lines for axis in axes.values()):
            continue
        for axis, label in zip(axes.values(), ("loss", "accuracy of the batch in %"), strict=True):
            axis.set(xlabel="step", title=label)
            axis.spines[["top", "right"]].set_visible(False)
        axes["train/acc"].legend(fontsize=8, frameon=False)
        figures.append(picture(figure, f"training curves of {dataset}", f"{dataset}, {shots_text(shots)}"))
    return grid(figures, "wide") if figures else "<p>No run has kept scalars of its training (tensorboard/).</p>"


def scalars(folder):
    """{tag: values} of a run's TensorBoard files; nothing if there are none."""
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def thin(values):
    """Steps and means of values in at most POINTS pieces of a curve."""
    pieces = np.array_split(np.arange(len(values)), min(POINTS, len(values)))
    return [piece.mean() for piece in pieces], [np.asarray(values)[piece].mean() for piece in pieces]


def predictions_of(groups, folders):
    """{(position of a Group, seed): rows} of the runs that have kept their predictions."""
    predictions = {}
    for i, group in enumerate(groups):
        for seed in group.runs if id(group) in folders else ():
            if rows := read_predictions(folders[id(group)] / f"seed{seed}"):
                predictions[i, seed] = rows
    return predictions


def confusions(groups, predictions):
    """A matrix for each method, of all its seeds: rows are true classes and sum to 100 %."""
    figures = []
    for i, group in enumerate(groups):
        rows = [row for (j, _), rows in predictions.items() if j == i for row in rows]
        if not rows:
            continue
        pairs = Counter((row["class"], row["predicted"]) for row in rows)
        names = unique(
            [*next(iter(group.runs.values()))["metrics"].get("per_class_accuracy", ()), *(n for p in pairs for n in p)]
        )
        counts = np.array([[pairs[a, b] for b in names] for a in names], float)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.subplots()
        figure.colorbar(axes.imshow(share, cmap="cividis", vmin=0, vmax=100), label="% of the class")
        axes.set(xlabel="predicted", ylabel="true", title=group.method.name)
        if len(names) <= NAMED:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
        worst = sorted(((share[a, b], names[a], names[b]) for a, b in np.argwhere(counts) if a != b), reverse=True)[:3]
        told = "; ".join(f"{a} taken for {b}: {value:.0f} %" for value, a, b in worst)
        where = f"{group.dataset}, {shots_text(group.shots)}. Most frequent: {told or 'no mistake'}"
        figures.append(picture(figure, f"confusion matrix of {group.method.name}", where))
    return grid(figures) if figures else lacking("predictions.csv", "train.py")


def lacking(file, maker):
    return f"<p>No run has a {file} (which {maker} writes), so there is nothing to show.</p>"


def hardest(groups, folders, predictions):
    """Images that most runs take for something else, the surest mistakes first, and what a SOT-GLP sees in them."""
    parts = []
    for dataset in unique(group.dataset for group in groups):
        seen = defaultdict(list)
        for (i, _), rows in predictions.items():
            for row in rows if groups[i].dataset == dataset else ():
                seen[row["path"]].append(row)
        ranked = []
        for path, rows in seen.items():
            if wrong := [row for row in rows if row["predicted"] != row["class"]]:
                sure = sum(float(row["p_predicted"]) for row in wrong) / len(wrong)
                ranked.append((-len(wrong) / len(rows), -sure, path, wrong, len(rows)))
        found = [
            Mistake(path, wrong[0]["class"], Counter(row["predicted"] for row in wrong).most_common(1)[0][0],
                    f"wrong in {len(wrong)} of {total} runs, {-sure:.0%} sure")
            for _, sure, path, wrong, total in sorted(ranked, key=lambda entry: entry[:3])[:HARDEST]
        ]  # fmt: skip
        if found:
            of_dataset = [group for group in groups if group.dataset == dataset and id(group) in folders]
            note, figures = faces(found, of_dataset, folders)
            parts.append(f"<h3>{text(dataset)}</h3>{note}{grid(figures, 'faces')}")
    return "".join(parts) or lacking("predictions.csv", "train.py")


class Mistake(NamedTuple):
    """An image that runs take for another class."""

    path: str
    truth: str
    taken: str
    told: str

    @property
    def caption(self):
        return f"{self.truth}, taken for {self.taken}; {self.told}"


def faces(mistakes, groups, folders):
    """A paragraph about the overlays, and the figure of each Mistake: of an image whose file is gone, its caption."""
    readable = []
    for mistake in mistakes:
        with contextlib.suppress(UserError):
            readable.append((mistake, read_image(mistake.path)))
    note, drawn = overlays(readable, groups, folders)
    figures = []
    for mistake in mistakes:
        if mistake in drawn:
            figures.append(picture(drawn[mistake], f"{mistake.truth}, taken for {mistake.taken}", mistake.caption))
        else:
            gone = f"{mistake.caption} (its file is gone: {mistake.path})"
            figures.append(f"<figure><figcaption>{text(gone)}</figcaption></figure>")
    return f"<p>{text(note)}</p>", figures


def overlays(readable, groups, folders):
    """What is drawn, and {Mistake: Figure, or bytes of a PNG}, of [(Mistake, its image)].

    With the partition for the true and for the other class by the first SOT-GLP that has local prompts, if its weights
    can be loaded; else the images alone.
    """
    reason = "no run of SOT-GLP with local prompts"
    for group in groups if readable else ():
        if group.method.trainer != "SOTGLP":
            continue
        run = folders[id(group)] / f"seed{min(group.runs)}"
        try:
            predictor = visualize.load(run)
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            continue
        seen = visualize.look(predictor, torch.stack([predictor.preprocess(image) for _, image in readable]))
        labels = visualize.labels_of(predictor)
        drawn = {}
        for i, (mistake, _) in enumerate(readable):
            titles = {labels[name]: name for name in (mistake.truth, mistake.taken) if name in labels}
            drawn[mistake] = visualize.draw_card(seen, i, titles)
        said = f"{group.method.name}, seed {min(group.runs)}"
        return f"At the right of each: how {said}, shares out the patches that it keeps for the two classes.", drawn
    drawn = {}
    for mistake, image in readable:
        drawn[mistake] = png = io.BytesIO()
        ImageOps.contain(image, (128, 128), Image.Resampling.NEAREST).save(png, "PNG")
    return f"Without overlays of local prompts: {reason}.", {key: png.getvalue() for key, png in drawn.items()}


def ood(groups, folders):
    """Histograms of the OOD scores of each method's first seed, with the threshold of FPR95."""
    figures = []
    for group in groups:
        paths = [folders[id(group)] / f"seed{seed}" / "ood.json" for seed in group.runs if id(group) in folders]
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        histograms = found[0].get("histograms", {}) if found else {}
        if not histograms:
            continue
        columns = min(3, len(histograms))
        lines = math.ceil(len(histograms) / columns)
        figure = Figure(figsize=(3.2 * columns, 2.3 * lines + 0.4), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).flat
        for (score, bins), axis in zip(histograms.items(), panels, strict=False):
            edges = np.linspace(bins["low"], bins["high"], len(bins["in"]) + 1)
            for name, colour in zip(("in", "out"), plots.OKABE_ITO, strict=False):
                counts = np.array(bins[name])
                axis.stairs(
                    counts / counts.sum(), edges, fill=True, alpha=0.55, color=colour, label=f"{name}-distribution"
                )
            axis.axvline(bins["threshold"], color="black", linestyle="--", label="keeps 95 %")
            axis.set_title(f"{score}: AUROC {found[0]['average'][score]['AUROC']:.1f} %", fontsize=10)
            axis.set_yticks([])
        for axis in list(panels):
            axis.set_axis_off()
        figure.axes[0].legend(fontsize=7, frameon=False)
        caption = f"{group.method.name}, {group.dataset}, {shots_text(group.shots)}, seed {found[0]['seed']}"
        figures.append(picture(figure, f"OOD scores of {group.method.name}", caption))
    return grid(figures, "wide") if figures else lacking("ood.json with histograms", "python -m scripts.ood RUN_FOLDER")


def settings(groups, folders):
    """A table of the keys that are not the same for all methods."""
    columns = {}
    for group in groups:
        if id(group) in folders:
            paths = [folders[id(group)] / f"seed{seed}" / "config.yaml" for seed in group.runs]
            columns.setdefault(group.method.name, []).extend(read_flat(path) for path in paths if path.is_file())
    keys = unique(key for configs in columns.values() for config in configs for key in config)
    lines = []
    for key in keys:
        cells = [", ".join(unique(str(config.get(key, "")) for config in configs)) for configs in columns.values()]
        if len(set(cells)) > 1 and not key.startswith(OF_A_RUN):
            lines.append([key, *cells])
    return (
        make_table("Settings that differ", ["key", *columns], lines) if lines else "<p>All settings are the same.</p>"
    )


def page(folder, quiet=False):
    """The HTML of all finished runs below a folder. Raises ValueError or OSError if there is none, or it is damaged."""
    comparisons, folders = find_groups(folder)
    parts = [f"<h1>Report of {text(folder.resolve().name)}</h1>"]
    for groups in comparisons:
        predictions = predictions_of(groups, folders)
        sections = {
            "Results": partial(tables, groups),
            "Plots": partial(drawn_plots, groups),
            "Training curves": partial(curves, groups, folders),
            "Confusion matrices": partial(confusions, groups, predictions),
            "Hardest images": partial(hardest, groups, folders, predictions),
            "OOD detection": partial(ood, groups, folders),
            "Settings": partial(settings, groups, folders),
        }
        if len(comparisons) > 1:
            parts.append(f"<h1>{text(table.title(groups))}</h1>")
        progress = tqdm(sections.items(), desc=table.title(groups), leave=False, disable=quiet or None)
        parts += [f"<section><h2>{name}</h2>{make()}</section>" for name, make in progress]
    title = f"Report of {text(folder.resolve().name)}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=title, body="\n".join(parts))


def parse_args(argv):
    parser = train.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder below which the runs lie, such as output/fashion_mnist")
    parser.add_argument("--out", type=Path, help="the page; by default report.html in that folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the script; return its exit code: 0, or 2 for a mistake of the user."""
    try:
        args = parse_args(argv)
        out = args.out or args.folder / "report.html"
        content = page(args.folder, args.quiet)
        with replacing(out) as file:
            file.write(content)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if not args.quiet:
        print(f"The page is {out} ({os.path.getsize(out) / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

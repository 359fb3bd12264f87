"""Sections of a report as HTML: tables, plots, training curves, confusion matrices, OOD scores, settings."""

import contextlib
import io
import math
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts import plots, table
from scripts.groups import caption, read_ood
from scripts.methods import shots_text, unique
from scripts.report_html import grid, lacking, make_table, picture

METRICS = ("accuracy", "macro_f1")
OF_A_RUN = ("SEED", "OUTPUT_DIR", "RESUME", "DATASET.NAME", "DATASET.NUM_SHOTS", "INPUT.FEATURE_")
MAX_NAMES = 30  # largest number of classes whose names a confusion matrix shows
POINTS = 60  # of a training curve


def tables(groups):
    """Return a table of means over seeds for each number of shots, and one of all runs."""
    parts = []
    for shots in unique(group.shots for group in groups):
        of_shots = [group for group in groups if group.shots == shots]
        headers, rows = table.without_empty_columns(*table.make_table(of_shots))
        lines = [[name, *((cell.mean, cell.text()) for cell in cells)] for name, *cells in rows]
        parts.append(make_table(caption(of_shots), headers, lines))
    headers = ["method", "data set", "shots", "seed", "accuracy", "macro F1", "epochs", "seconds"]
    lines = [
        [group.method.name, group.dataset, group.shots, seed, *numbers(run)]
        for group in groups
        for seed, run in group.runs.items()
    ]
    return "".join([*parts, make_table("All runs", headers, lines)])


def numbers(run):
    """Return the cells of a run's METRICS, epochs and seconds."""
    percent = [(value, "" if value is None else f"{value:.2f}") for value in map(run["metrics"].get, METRICS)]
    return [*percent, run.get("epochs"), run["seconds"]]


def drawn_plots(groups):
    """Return the plots of scripts.plots."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        names = plots.draw_all(groups, Path(folder))
        return grid(picture((Path(folder) / name).read_bytes(), f"plot: {name}") for name in names)


def curves(groups):
    """Return the curves of the training batches' loss and accuracy, means over seeds, from the TensorBoard files."""
    figures, look = [], plots.styles(groups)
    for dataset, shots in unique((group.dataset, group.shots) for group in groups):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = dict(zip(("train/loss", "train/acc"), figure.subplots(1, 2), strict=True))
        for group in groups:
            if (group.dataset, group.shots) == (dataset, shots):
                runs = [scalars(run.folder / "tensorboard") for run in group.finished_runs()]
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
    """Return {tag: values} of the TensorBoard files in a folder; nothing without that folder."""
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def thin(values):
    """Return the mean step and mean value of at most POINTS pieces of a curve."""
    pieces = np.array_split(np.arange(len(values)), min(POINTS, len(values)))
    return [piece.mean() for piece in pieces], [np.asarray(values)[piece].mean() for piece in pieces]


def predictions_of(groups):
    """Return a list of (Group, rows of predictions.csv), one per run that has the file."""
    return [(group, rows) for group in groups for run in group.finished_runs() if (rows := run.predictions())]


def confusions(groups, predictions):
    """Return a confusion matrix for each group, over all its seeds: rows are true classes and sum to 100 %."""
    figures = []
    for group in groups:
        rows = [row for other, rows in predictions if other is group for row in rows]
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
        if len(names) <= MAX_NAMES:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
        worst = sorted(((share[a, b], names[a], names[b]) for a, b in np.argwhere(counts) if a != b), reverse=True)[:3]
        mistakes = "; ".join(f"{a} taken for {b}: {value:.0f} %" for value, a, b in worst)
        words = f"{group.dataset}, {shots_text(group.shots)}. Most frequent: {mistakes or 'no mistake'}"
        figures.append(picture(figure, f"confusion matrix of {group.method.name}", words))
    return grid(figures) if figures else lacking("predictions.csv", "train.py")


def ood(groups):
    """Return histograms of the OOD scores of each group's first seed, with the threshold of FPR95."""
    figures = []
    for group in groups:
        found = [scores for run in group.finished_runs() if (scores := read_ood(run.folder))]
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
        words = f"{group.method.name}, {group.dataset}, {shots_text(group.shots)}, seed {found[0]['seed']}"
        figures.append(picture(figure, f"OOD scores of {group.method.name}", words))
    return grid(figures, "wide") if figures else lacking("ood.json with histograms", "python -m scripts.ood RUN_FOLDER")


def settings(groups):
    """Return a table of the settings that differ between methods."""
    columns = {}
    for group in groups:
        configs = [run.settings() for run in group.finished_runs()]
        columns.setdefault(group.method.name, []).extend(filter(None, configs))
    keys = unique(key for configs in columns.values() for config in configs for key in config)
    lines = []
    for key in keys:
        cells = [", ".join(unique(str(config.get(key, "")) for config in configs)) for configs in columns.values()]
        if len(set(cells)) > 1 and not key.startswith(OF_A_RUN):
            lines.append([key, *cells])
    return (
        make_table("Settings that differ", ["key", *columns], lines) if lines else "<p>All settings are the same.</p>"
    )

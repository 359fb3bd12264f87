"""Sections of a report as HTML: tables, plots, training curves, confusion matrices, OOD scores, settings.

A section without data is an empty text.
"""

import contextlib
import io
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dassl.config.compose import registered
from dassl.plugins import load_plugins
from scripts import plots, table
from scripts.groups import Group, by_place, caption, over_seeds, read_ood, statistic
from scripts.methods import shots_text, unique
from scripts.report_html import folded, grid, make_table, of_cell, paragraph, picture

METRICS = ("accuracy", "macro_f1")
PARTS = ("loading", "encoding", "training", "testing")  # of a run's seconds
OF_A_RUN = ("SEED", "OUTPUT_DIR", "RESUME", "DATASET.NAME", "DATASET.NUM_SHOTS", "INPUT.FEATURE_")
OF_TRAINING = ("OPTIM.", "DATALOADER.TRAIN_X.", "TRAIN.")
MAX_NAMES, MAX_NUMBERS = 30, 12  # largest numbers of classes whose names, and shares, a confusion matrix shows
WIDE = 6  # columns of a table that is folded


class Predicted(NamedTuple):
    """The rows of a run's predictions.csv."""

    group: Group
    seed: int
    rows: list


def predictions_of(groups):
    """Return a list of Predicted, one per run that has the file."""
    return [
        Predicted(group, seed, rows)
        for group in groups
        for seed, run in zip(group.runs, group.finished_runs(), strict=False)
        if (rows := run.predictions())
    ]


def tables(groups):
    """Return a table of means over seeds for each number of shots, and one of all runs."""
    parts = []
    for shots in unique(group.shots for group in groups):
        of_shots = [group for group in groups if group.shots == shots]
        headers, rows = table.without_empty_columns(*table.make_table(of_shots))
        lines = [[name, *map(of_cell, cells)] for name, *cells in rows]
        parts.append(make_table(f"{caption(of_shots)}; bold: the best of a column", headers, lines))
    return "".join([*parts, all_runs(groups)])


def all_runs(groups):
    """Return a table of all runs."""
    runs = [(group, seed, run) for group in groups for seed, run in group.runs.items()]
    best = {}  # of the runs on one data set with one number of shots
    for group, _, run in runs:
        for metric in METRICS:
            key = group.dataset, group.shots, metric
            best[key] = max(best.get(key, 0), run["metrics"].get(metric, 0))
    parts = PARTS if any(run.get("seconds_of") for *_, run in runs) else ()
    several = len({(group.dataset, group.shots) for group in groups}) > 1
    headers = ["method", *(("data set", "shots") if several else ()), "seed"]
    headers += ["accuracy", "macro F1", "epochs", "seconds", *parts]
    lines = []
    for group, seed, run in runs:
        words = [group.method.name, *((group.dataset, group.shots) if several else ()), seed]
        spent = [run["seconds"], *(run.get("seconds_of", {}).get(part) for part in parts)]
        values = {metric: run["metrics"].get(metric) for metric in METRICS}
        percent = [
            (value, "" if value is None else f"{value:.2f}", value == best[group.dataset, group.shots, metric])
            for metric, value in values.items()
        ]
        in_seconds = [(s, "" if s is None else f"{s:.1f}") for s in spent]
        lines.append([*words, *percent, run.get("epochs"), *in_seconds])
    words = "All runs; seconds: of training and test, then of the parts" if parts else "All runs"
    return make_table(words, headers, lines)


def drawn_plots(groups):
    """Return the plots of scripts.plots."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        names = plots.draw_all(groups, Path(folder))
        figures = grid([picture((Path(folder) / name).read_bytes(), f"plot: {name}") for name in names])
    return figures if "seconds.png" in names or not names else figures + paragraph(f"There is {plots.NO_SECONDS}.")


def classes(groups):
    """Return a table of the accuracy of each class, for each data set and number of shots."""
    parts = []
    for dataset, shots, of_place in by_place(groups):
        found = [group for group in of_place if per_class(group)]
        names = unique(name for group in found for of_run in per_class(group) for name in of_run)
        rows = []
        for name in names:
            cells = [statistic([run[name] for run in per_class(group) if name in run]) for group in found]
            table.mark_best(cells)
            rows.append([name, *map(of_cell, cells)])
        if rows:
            words = filter(None, [f"{dataset}, {shots_text(shots)}: accuracy in %", over_seeds(found)])
            headers = ["class", *(group.method.name for group in found)]
            whole = make_table(f"{', '.join(words)}; bold: the best of a row", headers, rows)
            many = len(names) > MAX_NAMES or len(headers) > WIDE
            parts.append(folded(f"{len(names)} classes, {len(found)} methods", whole) if many else whole)
    return "".join(parts)


def per_class(group):
    """Return the {class: accuracy} of each of a group's runs that has them."""
    return [found for run in group.runs.values() if (found := run["metrics"].get("per_class_accuracy"))]


def curves(groups):
    """Return smoothed curves of loss and accuracy over the epochs, means over seeds, from the TensorBoard files."""
    figures, look = [], plots.styles(groups)
    for dataset, shots, of_place in by_place(groups):
        found = {}  # {words above a panel: {method: (epochs, values)}}
        for group in of_place:
            for words, line in lines_of(group.finished_runs()).items():
                found.setdefault(words, {})[group.method] = line
        for words, lines in sorted(found.items()):
            figure = Figure(figsize=(6, 3.8), layout="constrained")
            axes = figure.subplots()
            axes.set(title=words, xlabel="epoch")
            axes.spines[["top", "right"]].set_visible(False)
            for method, (epochs, values) in lines.items():
                colour = look[method]["color"]
                axes.plot(epochs, values, color=colour, alpha=0.25, linewidth=0.6)
                axes.plot(epochs, smooth(values), color=colour, label=method.name)
            figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
            figures.append(picture(figure, f"training curves: {words}", f"{dataset}, {shots_text(shots)}"))
    note = (
        "Means over seeds, pale as they are and smoothed in full colour. Losses that are sums of other terms stand "
        "apart: their values do not compare. Accuracy on validation images is there if a run validates after each "
        "epoch (TEST.FINAL_MODEL best_val)."
    )
    return paragraph(note) + grid(figures) if figures else ""


def lines_of(runs):
    """Return {words above a panel: (epochs, values)}, means over the runs, of a method.

    Args:
        runs: list of FinishedRun, with the same number of epochs.
    """
    epochs = next((run.results.get("epochs") for run in runs), None)
    runs = [tags for run in runs if (tags := scalars(run.folder / "tensorboard"))]
    terms = sorted(tag.removeprefix("train/loss_") for tag in {tag for tags in runs for tag in tags} if "/loss_" in tag)
    words = {
        "train/loss": f"loss: {' + '.join(terms)}" if terms else "loss",
        "train/acc": "accuracy of the training batches in %",
        "val/accuracy": "accuracy on validation images in %",
    }
    found = {}
    for tag, above in words.items():
        lines = [tags[tag] for tags in runs if tag in tags]
        if epochs and lines and len({len(line) for line in lines}) == 1:
            steps = np.arange(1, len(lines[0]) + 1)
            found[above] = epochs * steps / len(steps), np.mean(lines, axis=0)
    return found


def scalars(folder):
    """Return {tag: values} of the TensorBoard files in a folder; nothing without that folder."""
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def smooth(values):
    """Return values smoothed by a Gaussian as wide as a fortieth of them."""
    return gaussian_filter1d(values, len(values) / 40, mode="nearest")


def confusions(groups, predictions):
    """Return a confusion matrix for each group, over all its seeds: rows are true classes and sum to 100 %."""
    figures = []
    for group in groups:
        rows = [row for one in predictions if one.group is group for row in one.rows]
        if not rows:
            continue
        truth, predicted = ([row[column] for row in rows] for column in ("class", "predicted"))
        names = unique([*(name for of_run in per_class(group) for name in of_run), *truth, *predicted])
        share = 100 * confusion_matrix(truth, predicted, labels=names, normalize="true")
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.subplots()
        figure.colorbar(axes.imshow(share, cmap="cividis", vmin=0, vmax=100), label="% of the class")
        axes.set(xlabel="predicted", ylabel="true", title=group.method.name)
        for a, b in np.ndindex(share.shape) if len(names) <= MAX_NUMBERS else ():
            axes.text(
                b, a, f"{share[a, b]:.0f}", ha="center", va="center", fontsize=7, color="wk"[int(share[a, b] > 50)]
            )
        if len(names) <= MAX_NAMES:
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
        wrong = [(share[a, b], names[a], names[b]) for a, b in np.argwhere(share) if a != b]
        worst = sorted(wrong, reverse=True)[:3]
        mistakes = "; ".join(f"{a} taken for {b}: {value:.0f} %" for value, a, b in worst)
        words = f"{group.dataset}, {shots_text(group.shots)}. Most frequent: {mistakes or 'no mistake'}"
        figures.append(picture(figure, f"confusion matrix of {group.method.name}", words))
    return grid(figures)


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
    return grid(figures, "wide")


def settings(groups):
    """Return a table of the settings that differ between methods that read them."""
    load_plugins()
    columns = {}
    for group in groups:
        for run in group.finished_runs():
            read = {key: str(v) for key, v in run.settings().items() if reads(run.results, key)}
            columns.setdefault(group.method.name, []).append(read)
    keys = unique(key for configs in columns.values() for config in configs for key in config)
    lines = []
    for key in keys:
        values = [unique(config[key] for config in configs if key in config) for configs in columns.values()]
        if len({tuple(of_method) for of_method in values if of_method}) > 1 and not key.startswith(OF_A_RUN):
            lines.append([key, *map(", ".join, values)])
    if not lines:
        return ""
    whole = make_table("Empty: the method does not read the key", ["key", *columns], lines)
    return folded(f"{len(lines)} keys, {len(columns)} methods", whole) if len(columns) >= WIDE else whole


def reads(run, key):
    """Return whether a run reads a config key.

    Other methods' nodes, TRAINER.<NODE>, are not read, and what is of training is not without learned parameters. A
    trainer without NODE has its name in capitals as such, as the CoOp family has.

    Args:
        run: its results.json.
        key: "A.B.C".
    """
    if key.startswith(OF_TRAINING):
        return bool(run.get("epochs")) and run.get("learned_parameters") != 0
    node = getattr(registered("TRAINER", run["trainer"]), "NODE", run["trainer"].upper())
    return not key.startswith("TRAINER.") or key.count(".") == 1 or key.startswith(f"TRAINER.{node}.")

"""Draw plots of finished runs: python -m scripts.plots --out FOLDER GROUP ...

A GROUP is a folder with one subfolder per seed. scripts.compare draws the same plots beside its tables.

table.png        bars of accuracy, a dot for each seed, and a line at zero-shot CLIP
shots.png        accuracy over the number of shots, if the runs have several
seconds.png      accuracy over the seconds of training and test, if no two runs overlapped in time
ood.png          accuracy over OOD detection, if the runs have an ood.json

Plots of several data sets show averages over them. All but shots.png show the largest number of shots.
A plot leaves a method out if one of its runs is missing.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 1 something failed.
"""

import math
import statistics
import sys

from dassl.utils import command, replacing
from scripts.groups import (
    Cell,
    average,
    groups_parser,
    one_by_one,
    over_seeds,
    read_groups,
    seed_averages,
    title,
)
from scripts.methods import ALL_SHOTS, shots_word, unique

OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # without the pale yellow
MARKERS = "osD^vP*"
NO_SECONDS = "no plot of seconds: runs overlapped in time, or did not record it (JOBS=1 runs them in turn)"


def styles(groups):
    """Return {method: {"color": ..., "marker": ...}}; the first 49 pairs differ."""
    methods = unique(group.method for group in groups)
    return {
        method: {"color": OKABE_ITO[i % 7], "marker": MARKERS[(i + i // 7) % 7]} for i, method in enumerate(methods)
    }


def summary(groups, shots, metric="accuracy"):
    """Return {method: Cell} of the averages over data sets, of the methods whose runs are all finished."""
    cells = {}
    for method in unique(group.method for group in groups):
        of_method = [group for group in groups if group.method == method and group.shots == shots]
        result = average(of_method, metric) if of_method else None
        if result and result.mean is not None:
            cells[method] = result
    return cells


def spread(values, gap, low, high):
    """Return positions as near to values as possible, no two of them closer than the gap.

    Args:
        values: numbers in any order.
        gap: smallest distance of two positions.
        low: smallest position.
        high: largest position, as far as there is room.

    Returns:
        Array of positions in the values' order, with the least sum of squared distances from the values.
    """
    import numpy as np  # here, because these take a second
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    high = max(low, high - gap * (len(values) - 1))
    positions = np.empty(len(values))
    positions[order] = isotonic_regression(np.asarray(values, float)[order] - steps, y_min=low, y_max=high) + steps
    return positions


def label_at_right(axes, points, look):
    """Write methods' names in a column at the right, each with a thin line to its point.

    Args:
        axes: the axes, with their final limits.
        points: {method: (x, y)}.
        look: styles, as `styles` returns them.
    """
    low, high = axes.get_ylim()
    lines = axes.get_window_extent().height / axes.figure.dpi * 72 / 11  # that fit, with 9 points and some space
    heights = [y for _, y in points.values()]
    for (method, (x, y)), height in zip(points.items(), spread(heights, (high - low) / lines, low, high), strict=True):
        axes.annotate(
            method.name,
            (x, y),
            (1.04, (height - low) / (high - low)),
            textcoords="axes fraction",
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": look[method]["color"], "linewidth": 0.6, "relpos": (0, 0.5)},
        )


def new_axes(groups, height):
    """Return a new figure of that height in inches, and its axes."""
    from matplotlib.figure import Figure  # here, because it takes a second

    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title(groups), fontsize=11)
    return figure, axes


def height_for_labels(groups):
    """Return the height in inches in which the methods' names fit below each other."""
    return max(4.0, 0.2 * len(styles(groups)) + 1)


def accuracy_label(groups):
    datasets = unique(group.dataset for group in groups)
    return "accuracy in %" + (", average over data sets" if len(datasets) > 1 else "")


def draw_bars(groups, path):
    """Draw the accuracy of each method as a bar, a dot for each seed, and a line at the first method without training.

    Methods of several seeds have their standard deviation as a whisker.
    """
    cells = summary(groups, groups[0].shots)
    figure, axes = new_axes(groups, 0.4 * len(cells) + 1.5)
    look, ends = styles(groups), []
    for i, (method, cell) in enumerate(cells.items()):
        axes.barh(i, cell.mean, xerr=cell.deviation, color=look[method]["color"], capsize=3, alpha=0.75)
        dots = [*seed_averages([group for group in groups if group.method == method]).values()]
        if len(dots) > 1:
            # Side by side, so that equal ones are seen.
            heights = [i + 0.5 * ((place + 0.5) / len(dots) - 0.5) for place in range(len(dots))]
            axes.scatter(dots, heights, s=14, color="white", edgecolor="black", linewidth=0.8, zorder=3)
        ends.append(max(cell.mean + (cell.deviation or 0), *dots))
        axes.annotate(cell.text(), (ends[-1], i), (7, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(cells)), [method.name for method in cells])
    words = [accuracy_label(groups), over_seeds(groups)]
    if any(cell.deviation is not None for cell in cells.values()):
        words[-1] += " (dots)"
    if zero_shot := next((method for method in cells if not method.trained), None):
        axes.axvline(cells[zero_shot].mean, color="black", linestyle="--", linewidth=1, zorder=2)
        words.append(f"dashed: {zero_shot.name}")
    axes.set_xlabel("\n".join(filter(None, words)))
    axes.set_xlim(0, 1.25 * max(ends))
    axes.set_ylim(len(cells) - 0.4, -0.6)
    save(figure, path)


def save(figure, path):
    """Write a figure, whole or not at all."""
    with replacing(path, "wb") as file:
        figure.savefig(file, dpi=150)


def by_shots(number):
    """Return what numbers of shots are sorted by: all images come last."""
    return float("inf") if number == ALL_SHOTS else number


def draw_shots(groups, path):
    """Draw the accuracy over the number of shots, a line for each method."""
    figure, axes = new_axes(groups, height_for_labels(groups))
    look, ends = styles(groups), {}
    all_shots = sorted(unique(group.shots for group in groups), key=by_shots)
    places = {shots: shots if shots > 0 else 2 * max(all_shots) for shots in all_shots}  # all images: at the right
    summaries = {shots: summary(groups, shots) for shots in all_shots}
    for method in look:
        points = [(shots, cells[method]) for shots, cells in summaries.items() if method in cells]
        if points:
            shots, cells = zip(*points, strict=True)
            deviations = [math.nan if cell.deviation is None else cell.deviation for cell in cells]
            at, means = [places[number] for number in shots], [cell.mean for cell in cells]
            axes.errorbar(at, means, deviations, **look[method], capsize=3, linewidth=1.5)
            ends[method] = (places[shots[-1]], cells[-1].mean)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(places.values()), [shots_word(shots) for shots in all_shots])
    axes.minorticks_off()
    axes.set(xlabel="images per class", ylabel=accuracy_label(groups))
    label_at_right(axes, ends, look)
    save(figure, path)


def pareto_front(points):
    """Return the methods that no other equals in both quantities and beats in one, from the least first quantity.

    Args:
        points: {method: (x, y)}; of both quantities, more is better.
    """

    def is_beaten(point):
        return any(x >= point[0] and y >= point[1] and (x, y) != point for x, y in points.values())

    return sorted((method for method, point in points.items() if not is_beaten(point)), key=points.get)


def draw_scatter(groups, x, xlabel, path, front=False):
    """Draw the accuracy over another quantity, a labelled point for each method, with standard deviations.

    Args:
        groups: list of Group with one number of shots.
        x: {method: Cell} of the quantity.
        xlabel: words for its axis.
        path: Path of the picture.
        front: whether to mark the Pareto front; of the quantity, more is better then.
    """
    figure, axes = new_axes(groups, height_for_labels(groups))
    look, cells = styles(groups), summary(groups, groups[0].shots)
    points = {method: (x[method].mean, cell.mean) for method, cell in cells.items() if method in x}
    for method, point in points.items():
        deviations = cells[method].deviation, x[method].deviation
        axes.errorbar(*point, *deviations, **look[method], capsize=3, markersize=7)
    if front:
        line = zip(*(points[method] for method in pareto_front(points)), strict=True)
        axes.plot(*line, ":o", color="grey", markersize=14, markerfacecolor="none", zorder=0)
        xlabel += "\n(in circles: the Pareto front)"
    values = [value for value, _ in points.values()]
    if max(values) > 10 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(which="minor", labelbottom=False)  # they would overlap
    axes.set(xlabel=xlabel, ylabel=accuracy_label(groups))
    label_at_right(axes, points, look)
    save(figure, path)


def mean_seconds(groups):
    """Return {method: Cell of the mean seconds of a run's training and test, over the data sets}."""
    seconds = {}
    for method in unique(group.method for group in groups):
        values = [group.own_seconds for group in groups if group.method == method and group.runs]
        if values:
            seconds[method] = Cell(statistics.fmean(values))
    return seconds


def draw_all(groups, out):
    """Draw the plots of groups into a folder, and print and return their names."""
    largest = max((group.shots for group in groups), key=by_shots, default=ALL_SHOTS)
    at_largest = [group for group in groups if group.shots == largest]
    names, note = [], ""
    if summary(at_largest, largest):
        draw_bars(at_largest, out / "table.png")
        names.append("table.png")
        if one_by_one(at_largest):
            draw_scatter(at_largest, mean_seconds(at_largest), "seconds of training and test", out / "seconds.png")
            names.append("seconds.png")
        else:
            note = f"; {NO_SECONDS}"
    if len({group.shots for group in groups}) > 1:
        draw_shots(groups, out / "shots.png")
        names.append("shots.png")
    aurocs = summary(at_largest, largest, "ood_auroc")
    if aurocs:
        draw_scatter(at_largest, aurocs, "AUROC of OOD detection in %", out / "ood.png", front=True)
        names.append("ood.png")
    print(f"Plots: {', '.join(names) or 'none, because no method has all its runs'}{note}")
    return names


@command
def main(argv=None):
    """Run the command and return its exit code."""
    args = groups_parser(__doc__).parse_args(argv)
    draw_all(read_groups(args.groups), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

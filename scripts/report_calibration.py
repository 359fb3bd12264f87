"""The section of a report on calibration: reliability diagrams, and the ECE before and after a learned temperature."""

from matplotlib.figure import Figure

from dassl.evaluation.evaluator import CALIBRATED
from dassl.metrics import expected_calibration_error, reliability
from dassl.metrics.calibration import BINS
from scripts.groups import by_place, statistic
from scripts.methods import shots_text
from scripts.plots import OKABE_ITO
from scripts.report_html import grid, make_table, of_cell, paragraph, picture
from scripts.table import mark_best, without_empty_columns

KINDS = {"p_predicted": "before", CALIBRATED: "after"}  # column of predictions.csv: in words


def calibration(groups, predictions):
    """Return tables of ECE and temperature, and the reliability diagram of each method over all its seeds.

    Args:
        groups: list of Group.
        predictions: list of scripts.report_sections.Predicted.
    """
    parts = []
    for dataset, shots, of_place in by_place(groups):
        place, rows, figures = f"{dataset}, {shots_text(shots)}", [], []
        for group in of_place:
            tested = [one.rows for one in predictions if one.group is group]
            if tested:
                before, after = (statistic([*errors(tested, column)]) for column in KINDS)
                temperature = statistic([*group.values("temperature").values()])
                rows.append([group.method.name, before, temperature, after])
                figures.append(
                    picture(diagram(group.method.name, tested), f"reliability diagram of {group.method.name}")
                )
        for column in (1, 3):
            mark_best([row[column] for row in rows], min)
        if rows:
            headers, rows = without_empty_columns(["method", "ECE before, %", "temperature", "ECE after, %"], rows)
            lines = [[name, *(of_cell(cell, 1 + (i == 1)) for i, cell in enumerate(cells))] for name, *cells in rows]
            parts += [make_table(f"{place}; bold: the smallest error", headers, lines), grid(figures, "faces")]
    return paragraph(words(groups)) + "".join(parts) if parts else ""


def words(groups):
    """Return what the tables and figures show."""
    learned = any(group.values("temperature") for group in groups)
    said = (
        f"ECE: mean distance between the probability of the predicted class and the accuracy, over {BINS} intervals of "
        "equal width (0: calibrated). "
    )
    if learned:
        numbers = {run["images"]["val"] for group in groups for run in group.runs.values() if run.get("images")}
        images = f"{' or '.join(map(str, sorted(numbers)))} validation images".strip()
        return said + (
            f"After: with a temperature, which changes no prediction. Each run learned its own on its {images} (least "
            "cross-entropy), never on those of the test; few images make it uncertain."
        )
    return said + "No run learned a temperature: train.py does so on validation images that are not those of the test."


def errors(tested, column):
    """Yield the ECE of each run that has the column.

    Args:
        tested: rows of predictions.csv of each run.
        column: of the probabilities.
    """
    for rows in tested:
        if rows[0].get(column):
            yield expected_calibration_error(*confidences_and_hits(rows, column))


def confidences_and_hits(rows, column):
    return [float(row[column]) for row in rows], [row["class"] == row["predicted"] for row in rows]


def diagram(name, tested):
    """Return the reliability diagram of a method's runs as a Figure; the area of a mark is its share of the images."""
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for (column, when), colour, mark in zip(KINDS.items(), OKABE_ITO, "os", strict=False):
        rows = [row for of_run in tested for row in of_run if row.get(column)]
        if rows:
            number, confidence, accuracy = reliability(*confidences_and_hits(rows, column))
            axes.plot(confidence, accuracy, color=colour, linewidth=1, label=f"{when} temperature")
            axes.scatter(confidence, accuracy, 12 + 250 * number / len(rows), color=colour, marker=mark, alpha=0.6)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the predicted class", ylabel="accuracy", aspect="equal")
    axes.set_title(name, fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure

"""The section of a report that compares two methods image by image."""

import contextlib
import statistics
from collections import Counter
from itertools import combinations

from dassl.utils import UserError, read_image
from scripts.groups import by_place
from scripts.methods import shots_text
from scripts.report_hardest import how_to_read, thumbnail
from scripts.report_html import folded, grid, make_table, paragraph, picture, text

HEADERS = ("first", "second", "seed", "both right", "only first right", "only second right", "both wrong", "p")
SHOWN = 6  # images that one of two methods alone gets right
NEAREST = 3  # methods whose images stand beside those of the best


def pairs(groups, predictions):
    """Return tables of all pairs of methods, and images that the best or one of the next gets right alone.

    Args:
        groups: list of Group.
        predictions: list of scripts.report_sections.Predicted.
    """
    parts = []
    for dataset, shots, of_place in by_place(groups):
        tested = ranked([one for one in predictions if (one.group.dataset, one.group.shots) == (dataset, shots)])
        if len(tested) > 1:
            parts += [f"<h3>{text(dataset)}, {shots_text(shots)}</h3>", *compare(tested, how_to_read(of_place))]
    return "".join(parts)


def ranked(predictions):
    """Return {name of a method: {seed: {path: row}}}, the best mean accuracy first.

    A method without training has one run, which stands for each seed of the others.
    """
    seeds = sorted({one.seed for one in predictions if one.group.method.trained})
    methods = {}
    for one in predictions:
        rows = {row["path"]: row for row in one.rows}
        for seed in [one.seed] if one.group.method.trained or not seeds else seeds:
            methods.setdefault(one.group.method.name, {})[seed] = rows

    def accuracy(name):
        return statistics.fmean(statistics.fmean(map(right, rows.values())) for rows in methods[name].values())

    return {name: methods[name] for name in sorted(methods, key=accuracy, reverse=True)}


def right(row):
    return row["class"] == row["predicted"]


def compare(tested, how):
    """Return pieces of HTML about all pairs of methods.

    Args:
        tested: of `ranked`.
        how: keyword arguments of `read_image`.
    """
    best, *others = tested
    with_best = [line[1:] for other in others for line in lines_of(best, other, tested)]
    rest = [line for pair in combinations(others, 2) for line in lines_of(*pair, tested)]
    parts = [
        paragraph(
            "Test images that both methods get right, one of them, or none. p: exact McNemar test of one seed's "
            "images, two-sided; a small one says that more than chance lies between the two. It is not corrected for "
            "the number of rows, and one seed says nothing about others."
        ),
        make_table(f"First: {best}", HEADERS[1:], with_best),
    ]
    if rest:
        parts.append(folded("All other pairs", make_table("All other pairs", HEADERS, rest)))
    for i, other in enumerate(others[:NEAREST]):
        if figures := [*alone(best, other, tested, how), *alone(other, best, tested, how)]:
            parts.append(folded(f"Images that only {best} or only {other} gets right", grid(figures, "thumbs"), i == 0))
    return parts


def common(first, second, tested):
    """Return [(seed, [(row of the first method, row of the second), ...]), ...] of the seeds and images of both."""
    one, two = tested[first], tested[second]
    return [
        (seed, [(one[seed][path], two[seed][path]) for path in one[seed].keys() & two[seed].keys()])
        for seed in sorted(one.keys() & two.keys())
    ]


def lines_of(first, second, tested):
    """Return the rows of two methods' table, one for each common seed."""
    lines = []
    for seed, both in common(first, second, tested):
        counts = Counter((right(a), right(b)) for a, b in both)
        only = counts[True, False], counts[False, True]
        p = mcnemar(*only)
        lines.append([first, second, seed, counts[True, True], *only, counts[False, False], (p, f"{p:.2g}")])
    return lines


def mcnemar(only_first, only_second):
    """Return the two-sided p value of McNemar's exact test.

    If two methods are equally good, each image that only one of them gets right is as likely the first's as the
    second's: their numbers are binomial with the probability 1/2.
    """
    from scipy.stats import binomtest  # here, because it takes half a second

    number = only_first + only_second
    return float(binomtest(only_first, number, 0.5).pvalue) if number else 1.0


def alone(winner, loser, tested, how):
    """Return figures of the images that the winner gets right and the loser wrong, in most seeds first."""
    seeds = common(winner, loser, tested)
    found = [(a, b) for _, both in seeds for a, b in both if right(a) and not right(b)]
    times = Counter(a["path"] for a, _ in found)
    rows = {a["path"]: b for a, b in found}
    figures = []
    for path in sorted(times, key=lambda path: (-times[path], path))[:SHOWN]:
        row = rows[path]
        words = f"{row['class']}: {winner} right, {loser} says {row['predicted']}; {times[path]} of {len(seeds)} seeds"
        with contextlib.suppress(UserError):
            figures.append(picture(thumbnail(read_image(path, **how)), f"{row['class']}, only {winner} right", words))
    return figures

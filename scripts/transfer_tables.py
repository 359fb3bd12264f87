"""Tables of protocols that test what was learned on other images: a row per method, a column per test."""

from dataclasses import replace
from statistics import harmonic_mean, mean

from scripts import table
from scripts.groups import Cell, average, caption, group_of, statistic
from scripts.methods import unique

CSV_COLUMNS = ("method", "trained on", "shots", "tested on", "mean", "std", "seeds")
HM = "HM: harmonic mean of the two means; of several seeds with the deviation of theirs."
CLASS_SPECIFIC = "No figure: the method learned prompts of each class, and these are other classes."


def cell_of(groups, metric="accuracy"):
    """Return the Cell of a method's Groups, one per data set; empty if one of them is None."""
    if None in groups:
        return Cell()
    return groups[0].cell(metric) if len(groups) == 1 else average(groups, metric)


def harmonic(base, new):
    """Return the harmonic mean of two means as a Cell, with the deviation over the seeds' harmonic means.

    It is empty unless all runs are finished.

    Args:
        base: a method's Groups on the base classes, one per data set.
        new: its Groups on the new classes.
    """
    halves = [cell_of(base), cell_of(new)]
    if not all(cell.counts for cell in halves):
        return Cell()
    of_seeds = [
        harmonic_mean([mean(group.values()[seed] for group in groups) for groups in (base, new)])
        for seed in base[0].seeds
    ]
    return replace(statistic(of_seeds), mean=harmonic_mean([cell.mean for cell in halves]))


def make_table(headers, summary, groups):
    """Return a table as (headers, rows); a row is a method's name and its Cells.

    Args:
        headers: names of the columns.
        summary: last column, as in a Plan.
        groups: {method: for each column the list of its Groups, one per data set}.
    """
    rows = []
    for method, columns in groups.items():
        cells = [cell_of(column) for column in columns]
        if summary == "HM":
            cells.append(harmonic(*columns))
        elif len(columns) > 2:
            cells.append(cell_of([group for column in columns[1:] for group in column]))
        rows.append([method.name, *cells])
    for column in zip(*(row[1:] for row in rows), strict=True):
        table.mark_best(column)
    return ["method", *headers, *([summary] if len(rows[0]) > len(headers) + 1 else [])], rows


def groups_of(plan, columns):
    """Return {method: for each column a list of its one Group}; [None] if the method is not tested there.

    Args:
        plan: a Plan.
        columns: {name: its runs or Evaluations}.
    """
    groups = {}
    for method in unique(run.method for run in plan.runs):
        of_method = [[command for command in commands if command.method == method] for commands in columns.values()]
        groups[method] = [[group_of(commands, commands[0].dataset) if commands else None] for commands in of_method]
    return groups


def csv_lines(plan, columns, groups):
    """Return the lines of table.csv for a plan; arguments as in `groups_of`."""
    lines = []
    for method, of_method in groups.items():
        for name, (group,) in zip(columns, of_method, strict=True):
            if group:
                cell = group.cell()
                tested = [name, cell.mean, cell.deviation, len(group.runs)]
                lines.append([method.name, f"{group.dataset}, {plan.own}", group.shots, *tested])
    return lines


def notes_of(plan):
    """Return the lines below the tables of a plan."""
    notes = [HM] if plan.summary == "HM" else []
    other_classes = not all(target.same_classes for target in plan.targets)
    return notes + [CLASS_SPECIFIC] * (other_classes and not all(run.method.any_classes for run in plan.runs))


def report(plans, tests, out):
    """Print and write the tables of all finished runs: one per plan, and one of the averages of several plans.

    Args:
        plans: list of Plan of one protocol.
        tests: for each plan {target: list of Evaluation}.
        out: Path of the folder for the files.
    """
    tables, lines, all_groups, notes = [], [], [], notes_of(plans[0]) if plans else []
    for plan, of_plan in zip(plans, tests, strict=True):
        columns = {plan.own: plan.runs, **{target.name: of_plan[target] for target in plan.targets}}
        groups = groups_of(plan, columns)
        all_groups.append(groups)
        own = [of_method[0][0] for of_method in groups.values()]
        if any(group.runs for group in own):
            words = f"{caption(own)}; trained on {plan.own}"
            tables.append((words, *make_table(columns, plan.summary, groups), notes))
            lines += csv_lines(plan, columns, groups)
    if not tables:
        return
    if len(plans) > 1:
        # Lists of one Group each, joined over the plans, column by column.
        joined = {
            method: [sum(column, []) for column in zip(*(groups[method] for groups in all_groups), strict=True)]
            for method in all_groups[0]
        }
        words = caption([group for of_method in joined.values() for group in of_method[0]])
        tables.append((f"Average of {words}", *make_table(columns, plans[0].summary, joined), notes))
    table.show(tables, [CSV_COLUMNS, *lines], out)

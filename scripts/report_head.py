"""The head of a report: its conclusions, and the facts about its runs."""

from datetime import datetime

from scripts.groups import lead, title
from scripts.methods import shots_text, unique
from scripts.plots import summary
from scripts.report_html import folded, text


def head(comparisons, command):
    """Return the conclusions of comparisons, and the facts about their runs, as HTML.

    Args:
        comparisons: list of lists of Group.
        command: the command that makes the report.
    """
    groups = [group for of_comparison in comparisons for group in of_comparison]
    runs = [run for group in groups for run in group.runs.values()]
    facts = {
        "Command": [command],
        "Commit": unique(commit(run) for run in runs if run.get("git")),
        "Date": dates(runs),
        "Machine": unique(machine(run) for run in runs if run.get("device")),
        "Versions": unique(versions(run) for run in runs if run.get("versions")),
        "Backbone": unique(run["backbone"] for run in runs),
        "Data": unique(filter(None, map(sizes, groups))),
        "Seeds": [", ".join(map(str, unique(sorted(run["seed"] for run in runs))))],
    }
    rows = [
        f"<dt>{name}</dt>{''.join(f'<dd>{text(v)}</dd>' for v in values)}" for name, values in facts.items() if values
    ]
    sentences = [f"<p class=lead>{text(sentence)}</p>" for sentence in conclusions(comparisons)]
    return f"{''.join(sentences)}<dl>{''.join(rows)}</dl>"


def conclusions(comparisons):
    """Return a sentence for each comparison and number of shots; it says which, if there are several."""
    tables = [
        [group for group in groups if group.shots == shots]
        for groups in comparisons
        for shots in unique(group.shots for group in groups)
    ]
    several = len(tables) > 1
    return [f"{title(groups)}: {conclusion(groups)}" if several else conclusion(groups) for groups in tables]


def conclusion(groups):
    """Return the best method and its lead over the next in a sentence; with several seeds that of scripts.groups.lead.

    Args:
        groups: list of Group with one number of shots.
    """
    cells = sorted(summary(groups, groups[0].shots).items(), key=lambda item: -item[1].mean)
    if sentence := lead(groups):
        return sentence
    if not cells:
        return "No method has all its runs."
    (best, cell), *others = cells
    if not others:
        return f"{best.name}: {cell.text()} % accuracy."
    (second, other), gap = others[0], cell.mean - others[0][1].mean
    reach = f"{best.name} leads {second.name} by {gap:.1f} points ({cell.text()} and {other.text()} %)"
    return f"{reach}; too few common seeds for an interval."


def commit(run):
    """Return the commit of a run's code in words."""
    changed = ", with changes that are not committed" if run["git"]["dirty"] else ""
    return f"{run['git']['commit'][:12]}{changed}"


def dates(runs):
    """Return when the first of the runs began and the last ended, as a list of a text; empty if none tells."""
    times = [datetime.fromisoformat(run[key]) for run in runs for key in ("started", "ended") if run.get(key)]
    return [f"{min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M} UTC"] if times else []


def machine(run):
    """Return the machine of a run in words."""
    threads = run.get("threads")
    words = [run.get("machine"), "" if run["device"] == "cpu" else run["device"]]
    return ", ".join(filter(None, [*words, threads and f"{threads} thread{'s' * (threads > 1)}"]))


def versions(run):
    return ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)


def sizes(group):
    """Return the numbers of classes and images of a group's runs in words; "" if they do not tell."""
    runs = [run for run in group.runs.values() if run.get("images")]
    if not runs:
        return ""
    numbers, classes = runs[0]["images"], len(runs[0].get("classnames", ()))
    images = f"{numbers['train']} training, {numbers['val']} validation and {numbers['test']} test images"
    return f"{group.dataset}, {shots_text(group.shots)}: {classes} classes, {images}"


def commands(groups):
    """Return the command of each run, folded; nothing if no run tells."""
    lines = [
        f"<dt>{text(name_of(group, seed))}</dt><dd><code>{text(run['command'])}</code></dd>"
        for group in groups
        for seed, run in group.runs.items()
        if run.get("command")
    ]
    return folded(f"{len(lines)} commands of train.py", f"<dl class=code>{''.join(lines)}</dl>") if lines else ""


def name_of(group, seed):
    """Return the words for a run."""
    return f"{group.method.name}, {group.dataset}, {shots_text(group.shots)}, seed {seed}"

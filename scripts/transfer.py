"""What was learned on some images, tested on others: ``python -m scripts.transfer PROTOCOL ... [options of train.py]``.

base_to_new DATASETS SHOTS           train on the first half of the classes; test on it, and on the other half
cross_dataset SOURCE TARGETS SHOTS   train on all classes of a data set; test on it, and on other data sets
domain_generalization DATASET SHOTS  train on a data set; test on it, and on other pictures of its classes: for imagenet
                                     its four variants, for a data set with domains (emoji: styles) those not trained on

DATASETS and TARGETS are names with commas between them. Methods are those that scripts/compare.py would take, and so
are the environment's settings. Trainings come first, then tests of their weights, whose results.json lies in the folder
test/ of the run's. Finished ones are skipped and interrupted trainings continued. A run of scripts/compare.py on the
same data is the training of cross_dataset and of domain_generalization on imagenet, and not repeated.

In the end there is a table (terminal, Markdown, LaTeX, CSV), and for several DATASETS one of their averages. A method
that learned prompts of each class is tested only where the classes are those of its training.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import harmonic_mean, mean

from scripts import compare, table
from scripts.run import CONFIGS, Evaluation, check_name, make_runs, names, read_yaml, unique

IMAGENET_VARIANTS = {"imagenetv2": True, "imagenet_sketch": True, "imagenet_a": False, "imagenet_r": False}
CSV_COLUMNS = ("method", "trained on", "shots", "tested on", "mean", "std", "seeds")

UNDECLARED = 2, "it learned prompts of each class: say class_specific: true where the list of methods has it"


@dataclass(frozen=True)
class Target:
    """What runs are tested on besides their own test images; the fields of an Evaluation.

    same_classes: whether its classes are those of the training, in the same order.
    """

    name: str
    dataset: str
    pairs: tuple = ()
    same_classes: bool = False


@dataclass(frozen=True)
class Plan:
    """Runs with the same training data, and what they are tested on; `own` names their own test.

    summary: "average" of the targets, or "HM", the harmonic mean of the two tests.
    """

    runs: tuple
    own: str
    targets: tuple
    summary: str = "average"


def base_to_new(arguments, make):
    """Plans for the words DATASETS SHOTS. Raises ValueError."""
    datasets, shots = arguments
    plans = []
    for dataset in unique(datasets.split(",")):
        runs = placed(make(dataset, shots), "base_to_new", "DATASET.SUBSAMPLE_CLASSES", "base")
        targets = (Target("new", dataset, ("DATASET.SUBSAMPLE_CLASSES", "new")),)
        plans.append(Plan(runs, "base", targets, "HM"))
    return plans


def cross_dataset(arguments, make):
    """The plan for the words SOURCE TARGETS SHOTS. Raises ValueError."""
    source, targets, shots = arguments
    targets = unique(targets.split(","))
    for target in targets:
        check_name(target, names("datasets"), "data set")
    if source in targets:
        raise ValueError(f"{source} is trained on and tested anyway: give other data sets as TARGETS")
    return [Plan(tuple(make(source, shots)), source, tuple(Target(name, name) for name in targets))]


def domain_generalization(arguments, make, sources=None):
    """The plan for the words DATASET SHOTS.

    Args:
        sources: domains to train on; all but the last if None.

    Raises:
        ValueError: the data set has neither variants nor domains, or no domain is left to test on.
    """
    dataset, shots = arguments
    runs = make(dataset, shots)
    if dataset == "imagenet" and not sources:
        return [Plan(tuple(runs), dataset, tuple(Target(n, n, same_classes=s) for n, s in IMAGENET_VARIANTS.items()))]
    domains = domains_of(dataset)
    if not domains:
        raise ValueError(f"{dataset} has no domains: take imagenet (without --sources), or emoji")
    sources = unique(sources or domains[:-1])
    for source in sources:
        check_name(source, domains, f"domain of {dataset}")
    others = [domain for domain in domains if domain not in sources]
    if not others:
        raise ValueError(f"--sources leaves none of {', '.join(domains)} to test on: leave one out")
    name = "+".join(sources)
    # Tested on the same domains, training keeps images of theirs for the test.
    own = ("DATASET.SOURCE_DOMAINS", repr(tuple(sources)), "DATASET.TARGET_DOMAINS", repr(tuple(sources)))
    runs = placed(runs, f"domain_generalization/{name}", *own)
    pairs = {domain: ("DATASET.TARGET_DOMAINS", repr((domain,))) for domain in others}
    return [Plan(runs, name, tuple(Target(domain, dataset, pairs[domain], True) for domain in others))]


def domains_of(dataset):
    """Domains that the reader of a data set knows."""
    import datasets  # noqa: F401 (takes seconds, and other mistakes are told without it)
    from dassl.data.datasets import DATASET_REGISTRY

    return DATASET_REGISTRY.get(read_yaml(CONFIGS / "datasets" / f"{dataset}.yaml")["DATASET"]["NAME"]).domains


def placed(runs, folder, *pairs):
    """Runs with further "KEY VALUE" words, and so in a folder of their own."""
    return tuple(replace(run, output=str(Path(run.output, folder)), options=(*run.options, *pairs)) for run in runs)


PROTOCOLS = {
    "base_to_new": (base_to_new, "DATASETS SHOTS"),
    "cross_dataset": (cross_dataset, "SOURCE TARGETS SHOTS"),
    "domain_generalization": (domain_generalization, "DATASET SHOTS"),
}


def parse(argv):
    """Arguments -> (plans, folder of the tables). Raises ValueError."""
    parser = compare.make_parser(__doc__)
    parser.add_argument("--sources", metavar="DOMAINS", help="of domain_generalization: domains to train on")
    protocol = argv[0] if argv[:1] and argv[0] in PROTOCOLS else None
    args = compare.parse_flags(parser, argv[1:] if protocol else argv)
    if protocol is None:
        raise ValueError(f"give a protocol, one of: {'; '.join(PROTOCOLS)}")
    if args.sources is not None and protocol != "domain_generalization":
        raise ValueError(f"--sources is for domain_generalization, not for {protocol}")
    function, words = PROTOCOLS[protocol]
    count = len(words.split())
    arguments, options = args.what[:count], args.what[count:]
    if len(arguments) < count:
        raise ValueError(f"give {words}; see --help")
    methods = compare.choose_methods(args.methods, args.method)

    def make(dataset, shots):
        return make_runs(methods, [dataset], [shots], options)

    extra = {} if args.sources is None else {"sources": args.sources.split(",")}
    output = make(arguments[0].split(",")[0], arguments[-1])[0].output
    name = "_".join([protocol, *(word.replace(",", "+") for word in (*arguments[:-1], *extra.get("sources", ())))])
    return function(arguments, make, **extra), Path(output, f"{name}_{arguments[-1]}shots")


def tests_of(plan, configs):
    """{target: its Evaluations}, of the methods that can be tested on it."""
    tests = {}
    for target in plan.targets:
        runs = [run for run in plan.runs if target.same_classes or not run.method.class_specific]
        tests[target] = []
        for run in runs:
            cfg = configs[run]
            epoch = None if cfg.TEST.FINAL_MODEL == "best_val" else cfg.OPTIM.MAX_EPOCH
            tests[target].append(Evaluation(run, target.name, target.dataset, target.pairs, epoch))
    return tests


def group_of(method, commands, shots):
    """The Group of a method among runs or evaluations; None if it has none among them."""
    commands = [command for command in commands if command.method == method]
    if not commands:
        return None
    seeds = {command.seed: command.folder / command.result for command in commands}
    results = {seed: table.read_run(path) for seed, path in seeds.items() if path.is_file()}
    return table.Group(method, commands[0].dataset, shots, list(seeds), results)


def undeclared(test):
    """Whether a test of other classes has weights with contexts of each class, (C, M, T, W) in sotglp.Prompts."""
    from dassl.engine.base import BEST  # takes seconds, and mistakes are told without it
    from dassl.utils import load_checkpoint

    file = BEST if test.epoch is None else f"model.pth.tar-{test.epoch}"
    weights = [load_checkpoint(str(path))["state_dict"] for path in test.run.folder.glob(f"*/{file}")]
    return any(name.endswith("context") and value.ndim == 4 for state in weights for name, value in state.items())


def cell_of(groups):
    """The Cell of a method on what is in a column for one data set or more; empty where a Group is None."""
    if None in groups:
        return table.Cell()
    return groups[0].cell() if len(groups) == 1 else table.average(groups)


def harmonic(base, new):
    """Harmonic mean of the two means, with the deviation over seeds of the seeds' harmonic means.

    base, new: a method's Groups, one for each data set. Empty unless all of their runs are finished.
    """
    halves = [cell_of(base), cell_of(new)]
    if not all(cell.counts for cell in halves):
        return table.Cell()
    of_seeds = [
        harmonic_mean([mean(group.values()[seed] for group in groups) for groups in (base, new)])
        for seed in base[0].seeds
    ]
    return replace(table.statistic(of_seeds), mean=harmonic_mean([cell.mean for cell in halves]))


def make_table(headers, summary, groups):
    """Headers, and a row of a method's name and Cells for each method.

    Args:
        headers: of the columns.
        summary: of a Plan.
        groups: {method: for each column a list of Groups, one for each data set}.
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


def report(plans, tests, out):
    """Print the tables of what is finished, one for each plan and one of averages, and write them into a folder."""
    tables, lines, all_groups = [], [], []
    notes = ["HM: harmonic mean of the two means; ± is over the seeds' harmonic means."] * (plans[0].summary == "HM")
    if any(run.method.class_specific for run in plans[0].runs) and not all(t.same_classes for t in plans[0].targets):
        notes.append("No figure: the method learned prompts of each class, and these are others.")
    for plan, of_plan in zip(plans, tests, strict=True):
        columns = {plan.own: plan.runs, **{target.name: of_plan[target] for target in plan.targets}}
        groups = {
            method: [[group_of(method, commands, plan.runs[0].shots)] for commands in columns.values()]
            for method in unique(run.method for run in plan.runs)
        }
        all_groups.append(groups)
        own = [of_method[0][0] for of_method in groups.values()]
        if not any(group.runs for group in own):
            continue
        words = f"{table.caption(own)}; trained on {plan.own}"
        tables.append((words, *make_table(columns, plan.summary, groups), notes))
        for method, of_method in groups.items():
            for name, (group,) in zip(columns, of_method, strict=True):
                if group:
                    cell = group.cell()
                    tested = [name, cell.mean, cell.deviation, len(group.runs)]
                    lines.append([method.name, f"{group.dataset}, {plan.own}", group.shots, *tested])
    if not tables:
        return
    if len(plans) > 1:
        # Lists of one Group each, joined over the plans, column by column.
        joined = {
            method: [sum(column, []) for column in zip(*(groups[method] for groups in all_groups), strict=True)]
            for method in all_groups[0]
        }
        words = table.caption([group for of_method in joined.values() for group in of_method[0]])
        tables.append((f"Average of {words}", *make_table(columns, plans[0].summary, joined), notes))
    table.show(tables, [CSV_COLUMNS, *lines], out)


def main(argv=None):
    """Run a protocol; return the exit code: 0, 2 for a mistake of the user, 130 or 143 if stopped, else 1."""
    try:
        plans, out = parse(sys.argv[1:] if argv is None else argv)
        runs = [run for plan in plans for run in plan.runs]
        configs = compare.configurations(runs)
        tests = [tests_of(plan, configs) for plan in plans]
        evaluations = {test: target for of_plan in tests for target, of_target in of_plan.items() for test in of_target}
        compare.configurations(evaluations)
        jobs, threads = compare.jobs_and_threads()
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finished = sum(command.finished for command in (*runs, *evaluations))
    told = f"{len(runs)} runs and {len(evaluations)} tests of them, {finished} finished before"

    def refuse(test):
        return UNDECLARED if not evaluations[test].same_classes and undeclared(test) else None

    return compare.carry_out(told, runs, lambda: report(plans, tests, out), jobs, threads, evaluations, refuse)


if __name__ == "__main__":
    sys.exit(main())

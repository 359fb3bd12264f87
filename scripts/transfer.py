"""Train on some images and test on others: python -m scripts.transfer PROTOCOL ... [options of train.py]

base_to_new DATASETS SHOTS           train on the first half of the classes; test on each half
cross_dataset SOURCE TARGETS SHOTS   train on all classes of a data set; test on it and on other data sets
domain_generalization DATASET SHOTS  train on a data set; test on it and on other pictures of its classes: for imagenet
                                     its four variants, for a data set with domains (emoji: styles) the other domains

DATASETS and TARGETS are names separated by commas. Methods and the settings of the environment are those of
scripts.compare (see its --help).

All trainings come first, then the tests of their weights. The results of a test are in the folder test/ of its run.
Finished ones are skipped, and stopped trainings continue. cross_dataset, and domain_generalization on imagenet, train
what scripts.compare trains, so each uses the finished runs of the other.

At the end the command writes tables (terminal, Markdown, LaTeX, CSV), for several DATASETS also one of their averages.
A method that learns prompts of each class is tested only on the classes of its training.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import sys
from pathlib import Path

from dassl.finished import FinishedRun
from dassl.utils import UserError, command
from scripts import compare
from scripts.execution import carry_out, configurations
from scripts.launcher import add_launcher, launch_of, show_status
from scripts.methods import apart, choose_methods, shots_word
from scripts.run import make_runs
from scripts.transfer_plans import PROTOCOLS, tests_of
from scripts.transfer_tables import report

UNDECLARED = 2, "it learned prompts of each class: write class_specific: true in its entry of the list of methods"


def parse(argv):
    """Return the Plans, the Path of the folder of the tables, and the parsed arguments.

    Raises:
        UserError: An argument, or a setting of the environment, is wrong.
    """
    parser = compare.make_parser(__doc__)
    compare.add_protocol(parser)
    add_launcher(parser)
    parser.add_argument("--sources", metavar="DOMAINS", help="domains to train on, for domain_generalization")
    protocol = argv[0] if argv[:1] and argv[0] in PROTOCOLS else None
    args = compare.parse_flags(parser, argv[1:] if protocol else argv)
    if protocol is None:
        raise UserError(f"give a protocol, one of: {'; '.join(PROTOCOLS)}")
    if args.sources is not None and protocol != "domain_generalization":
        raise UserError(f"--sources is for domain_generalization, not for {protocol}")
    function, words = PROTOCOLS[protocol]
    count = len(words.split())
    arguments, options = args.what[:count], args.what[count:]
    if len(arguments) < count:
        raise UserError(f"give {words}; see --help")
    methods = choose_methods(args.methods, args.method, args.protocol)

    def make(dataset, shots):
        return make_runs(methods, [dataset], [shots], options)

    extra = {} if args.sources is None else {"sources": args.sources.split(",")}
    run = make(arguments[0].split(",")[0], arguments[-1])[0]
    name = "_".join([protocol, *(word.replace(",", "+") for word in (*arguments[:-1], *extra.get("sources", ())))])
    name = f"{name}_{shots_word(run.shots)}shots{apart(args.protocol)}"
    return function(arguments, make, **extra), Path(run.output, name), args


def undeclared(test):
    """Return whether the weights of an Evaluation hold contexts of each class, (C, M, T, W)."""
    from dassl.utils import load_checkpoint  # here, because it imports torch

    weights = [load_checkpoint(str(path))["state_dict"] for path in FinishedRun(test.run.folder).weights()]
    return any(name.endswith("context") and value.ndim == 4 for state in weights for name, value in state.items())


@command
def main(argv=None):
    """Run the command and return its exit code."""
    plans, out, args = parse(sys.argv[1:] if argv is None else argv)
    runs = [run for plan in plans for run in plan.runs]
    launch = None if args.status else launch_of(args, runs)
    configs = configurations(runs)
    tests = [tests_of(plan, configs) for plan in plans]
    evaluations = {test: target for of_plan in tests for target, of_target in of_plan.items() for test in of_target}
    if args.status:
        return show_status([*runs, *evaluations], runs[0].output)
    configurations(evaluations)
    finished = sum(command.finished for command in (*runs, *evaluations))
    plan = f"{len(runs)} runs and {len(evaluations)} tests of them, {finished} finished before"

    def refuse(test):
        return UNDECLARED if not evaluations[test].same_classes and undeclared(test) else None

    return carry_out(plan, runs, lambda: report(plans, tests, out), launch, evaluations, refuse)


if __name__ == "__main__":
    sys.exit(main())

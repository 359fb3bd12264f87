"""Compare methods: python -m scripts.compare DATASETS SHOTS [options of train.py]

DATASETS are names and SHOTS are numbers or all, separated by commas. A YAML file can replace both:

    datasets: [caltech101, dtd]
    shots: [1, 2, 4, 8, 16]
    seeds: [1, 2, 3]                      # optional; SEEDS by default
    methods: ["CoOp, shared context"]     # optional; names of the list of methods, or [all]; by default the core ones
    options: [OPTIM.MAX_EPOCH 100]        # optional; of train.py: flags first, then "KEY VALUE"

The list of methods is configs/comparisons/methods.yaml, or the file given by --methods. Its first lines explain its
keys.

Finished runs are skipped, and stopped ones continue. At the end the command writes tables (terminal, Markdown, CSV,
LaTeX) and pictures of the results, and shows how the local prompts of SOT-GLP divide an image among them.

Settings come from the environment, as for scripts.run (see its --help). One more is JOBS, the number of runs at a time:
by default 1 on a GPU, else one per core, at most 4.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import argparse
import shlex
import sys
from pathlib import Path

from dassl.utils import Parser, UserError, command
from scripts import plots, table, visualize
from scripts.archive import add_archives, beside, read_archive
from scripts.execution import carry_out, configurations
from scripts.groups import group_of
from scripts.launcher import add_launcher, launch_of, show_status
from scripts.methods import METHODS, PROTOCOLS, apart, check_name, choose_methods, read_yaml, shots_word, unique
from scripts.run import make_runs

KEYS = ("datasets", "shots", "seeds", "methods", "options")


def parse(argv, description=__doc__):
    """Return the runs, the folder of the tables, and the parsed arguments.

    Args:
        argv: the command's arguments.
        description: text of --help.

    Raises:
        UserError: An argument, or a setting of the environment, is wrong.
    """
    parser = make_parser(description)
    parser.add_argument("--published", action="store_true", help="show published figures beside ours")
    add_protocol(parser)
    add_launcher(parser)
    add_archives(parser)
    args = parse_flags(parser, argv)
    what, *options = args.what or [""]
    if what.endswith((".yaml", ".yml")):
        plan = read_plan(what)
        options = [*plan["options"], *options]
    elif options:
        plan = {"datasets": what.split(","), "shots": options.pop(0).split(",")}
    else:
        raise UserError("give DATASETS and SHOTS (such as: fashion_mnist 16), or a YAML file; see --help")
    methods = choose_methods(args.methods, args.method or plan.get("methods"), args.protocol)
    runs = make_runs(methods, plan["datasets"], plan["shots"], options, plan.get("seeds"))
    prefix = "compare" if args.methods == METHODS else args.methods.stem
    return runs, output_folder(runs, Path(what), prefix), args


def make_parser(description):
    """Return a parser of the flags that choose methods, and of the words after them."""
    parser = Parser(description)
    parser.add_argument("--methods", default=METHODS, type=Path, metavar="FILE", help="another list of methods")
    parser.add_argument(
        "--method", action="append", help="name of a method, or all; may be repeated; by default the core methods"
    )
    parser.add_argument("what", nargs=argparse.REMAINDER, help="see above")
    return parser


def add_protocol(parser):
    """Let a parser take --protocol."""
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="published",
        help="strict: no validation images, the same values on all data sets; results are apart (published)",
    )


def parse_flags(parser, argv):
    """Return the parsed arguments.

    Raises:
        UserError: An argument is wrong, or one of our flags stands among the options of train.py.
    """
    args = parser.parse_args(argv)
    if late := {f"--{name}" for name in vars(args)} & set(args.what):
        raise UserError(f"{' and '.join(sorted(late))} must stand before the data sets")
    return args


def read_plan(path):
    """Return {key: list} of a YAML file, its options split into words.

    Raises:
        UserError: The file cannot be read, lacks a key, or has an unknown key or one that holds no list.
    """
    plan = read_yaml(path)
    for key, value in plan.items():
        check_name(key, KEYS, f"key in {path}:")
        if not isinstance(value, list):
            raise UserError(f"{path}: {key} must be a list, such as [a, b], not {value}")
    if missing := {"datasets", "shots"} - set(plan):
        raise UserError(f"{path} lacks {' and '.join(sorted(missing))}")
    plan["datasets"] = [str(name) for name in plan["datasets"]]
    plan["options"] = [word for option in plan.get("options", []) for word in shlex.split(str(option))]
    return plan


def output_folder(runs, what, prefix):
    """Return the folder of the tables, named after the YAML file, or after data sets and shots.

    Args:
        runs: list of scripts.run.Run.
        what: Path of the YAML file, or of the data sets' names.
        prefix: first part of the name.
    """
    output, datasets = Path(runs[0].output), unique(run.dataset for run in runs)
    end = apart(runs[0].method.protocol)
    shots = "-".join(shots_word(number) for number in unique(run.shots for run in runs)) + f"shots{end}"
    if what.suffix:
        return output / f"{prefix}_{what.stem}{end}"
    if len(datasets) == 1:
        return output / datasets[0] / f"{prefix}_{runs[0].backbone}_{shots}"
    return output / f"{prefix}_{'+'.join(datasets)}_{shots}"


def report(configs, out, published, archives=()):
    """Print and write tables and pictures of the finished runs.

    Args:
        configs: {run: its configuration}.
        out: folder of the files.
        published: whether to show published figures beside ours.
        archives: files of others' results to show beside ours.

    Raises:
        UserError: Results were made on different splits.
    """
    groups = []
    for folder in unique(run.group for run in configs):
        runs = [run for run in configs if run.group == folder]
        groups.append(group_of(runs, configs[runs[0]].DATASET.NAME))
    if not any(group.runs for group in groups):
        return
    groups = beside(groups, archives)
    table.write(groups, out, published)
    plots.draw_all(groups, out)
    with_prompts = [
        run
        for run, cfg in configs.items()
        if run.finished and cfg.TRAINER.NAME == "SOTGLP" and cfg.TRAINER.SOTGLP.N_LOCAL
    ]
    if with_prompts:
        visualize.main([str(with_prompts[0].folder), "--number", "1", "--out", str(out / "prompts")])


@command
def main(argv=None):
    """Run the command and return its exit code."""
    runs, out, args = parse(sys.argv[1:] if argv is None else argv)
    for path in args.archive:
        read_archive(path)  # a mistake in it is reported before the runs
    if args.status:
        return show_status(runs, runs[0].output)
    launch = launch_of(args, runs)
    configs = configurations(runs)
    plan = f"{len(runs)} runs, {sum(run.finished for run in runs)} of them finished before"
    return carry_out(plan, runs, lambda: report(configs, out, args.published, args.archive), launch)


if __name__ == "__main__":
    sys.exit(main())

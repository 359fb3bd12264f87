"""Methods side by side: ``python -m scripts.compare DATASETS SHOTS [options of train.py]``.

DATASETS and SHOTS are names and numbers with commas between them. Instead of both, a YAML file may give

    datasets: [caltech101, dtd]
    shots: [1, 2, 4, 8, 16]
    seeds: [1, 2, 3]                      # those of SEEDS, if left out
    methods: ["CoOp, shared context"]     # of configs/comparisons/methods.yaml, or [all]; core ones, if left out
    options: [OPTIM.MAX_EPOCH 100]        # of train.py: flags first, then "KEY VALUE"

A file for --methods is like configs/comparisons/methods.yaml, which says what its keys are.

Finished runs are skipped and interrupted ones continued. In the end there are tables (terminal, Markdown, CSV,
LaTeX), pictures of them, and a figure of what the local prompts of SOT-GLP share out. The environment's settings are
those of scripts/run.py, and JOBS, the number of runs at a time: 1 on a GPU, else one per core, 4 at most.

Exit code: 0 done, 2 a mistake of the user, 130 interrupted, 143 terminated, 1 a run failed.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from scripts import plots, table
from scripts.run import METHODS, check_name, make_runs, read_methods, read_yaml, unique, whole_number

KEYS = ("datasets", "shots", "seeds", "methods", "options")


def parse(argv, description=__doc__):
    """Arguments -> (runs, folder of the tables, whether published figures are wanted). Raises ValueError."""
    parser = make_parser(description)
    parser.add_argument("--published", action="store_true", help="set published figures beside ours")
    args = parse_flags(parser, argv)
    what, *options = args.what or [""]
    if what.endswith((".yaml", ".yml")):
        plan = read_plan(what)
        options = [*plan["options"], *options]
    elif options:
        plan = {"datasets": what.split(","), "shots": options.pop(0).split(",")}
    else:
        raise ValueError("give DATASETS and SHOTS (such as: fashion_mnist 16), or a YAML file; see --help")
    methods = choose_methods(args.methods, args.method or plan.get("methods"))
    runs = make_runs(methods, plan["datasets"], plan["shots"], options, plan.get("seeds"))
    prefix = "compare" if args.methods == METHODS else args.methods.stem
    return runs, output_folder(runs, Path(what), prefix), args.published


def make_parser(description):
    """A parser of flags about methods, and of the words after them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--methods", default=METHODS, type=Path, metavar="FILE", help="another list of methods")
    parser.add_argument(
        "--method", action="append", help="a name of the list, or all; may be repeated; the core ones if not given"
    )
    parser.add_argument("what", nargs=argparse.REMAINDER, help="see above")
    parser.error = complain
    return parser


def complain(message):
    raise ValueError(f"{message} (see --help)")


def parse_flags(parser, argv):
    """The arguments of a parser. Raises ValueError if one is wrong, or stands where options of train.py stand."""
    args = parser.parse_args(argv)
    if late := {f"--{name}" for name in vars(args)} & set(args.what):
        raise ValueError(f"{' and '.join(sorted(late))} must stand before the data sets")
    return args


def choose_methods(path, chosen):
    """Methods of a file by their names, in its order: the core ones if none is chosen. Raises ValueError."""
    known = read_methods(path)
    if chosen == ["all"]:
        return list(known.values())
    for name in chosen or ():
        check_name(name, known, "method")
    return [method for name, method in known.items() if (name in chosen if chosen else method.core)]


def read_plan(path):
    """The lists of a YAML file, options as words. Raises ValueError."""
    plan = read_yaml(path)
    for key, value in plan.items():
        check_name(key, KEYS, f"key in {path}:")
        if not isinstance(value, list):
            raise ValueError(f"{path}: {key} must be a list, such as [a, b], not {value}")
    if missing := {"datasets", "shots"} - set(plan):
        raise ValueError(f"{path} lacks {' and '.join(sorted(missing))}")
    plan["datasets"] = [str(name) for name in plan["datasets"]]
    plan["options"] = [word for option in plan.get("options", []) for word in shlex.split(str(option))]
    return plan


def output_folder(runs, what, prefix):
    """Where the tables go: named after the YAML file, or after data sets and shots."""
    output, datasets = Path(runs[0].output), unique(run.dataset for run in runs)
    shots = "-".join(str(number) for number in unique(run.shots for run in runs)) + "shots"
    if what.suffix:
        return output / f"{prefix}_{what.stem}"
    if len(datasets) == 1:
        return output / datasets[0] / f"{prefix}_{runs[0].backbone}_{shots}"
    return output / f"{prefix}_{'+'.join(datasets)}_{shots}"


def configurations(runs):
    """{run: configuration that train.py will have}.

    Raises:
        ValueError: train.py would refuse it at once, or a finished run was made with other settings: it would be
            shown as what it is not.
    """
    import train  # takes seconds, and other mistakes are told without it

    configs = {run: train.setup_cfg(train.parse_args(run.arguments)) for run in runs}
    # What may change while a run is continued, but makes another run of a finished one.
    free = tuple(key for key in train.FREE_KEYS if key not in ("TEST.", "OPTIM.MAX_EPOCH"))
    for run, cfg in configs.items():
        if not run.finished:
            train.check_same_run(cfg)
        elif changes := train.changed_settings(cfg, run.folder, free if run.method.trained else (*free, "OPTIM.")):
            told = f"{run.folder} is finished with other settings ({changes})"
            raise ValueError(f"{told}: set another OUTPUT, or delete it")
    return configs


def jobs_and_threads():
    """Runs at a time, and CPU threads of each (None: torch's choice). Raises ValueError for a wrong JOBS."""
    import torch

    cores = len(os.sched_getaffinity(0))
    default = 1 if torch.cuda.is_available() else min(cores, 4)  # small runs gain little from a second core
    jobs = whole_number(os.environ.get("JOBS") or default, 1, "JOBS")
    return jobs, None if jobs == 1 else max(1, cores // jobs)


def execute(runs, jobs, threads):
    """Start the runs (scripts.run.Command), `jobs` at a time, and wait for all.

    Returns:
        {run: (exit code, error line)} of those that failed.
    """
    waiting, running, failed, said, start = list(runs), {}, {}, set(), time.monotonic()
    with tqdm(total=len(runs), disable=None, unit="run") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run, number = waiting.pop(0), len(runs) - len(waiting)
                    bar.write(f"[{number}/{len(runs)}{time_left(start, number - 1 - len(running), len(runs))}] {run}")
                    errors = tempfile.TemporaryFile("w+", errors="replace")
                    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": errors}
                    # A session of its own, so that an interrupt reaches it through stop() and only once.
                    running[run] = run.start(threads, **streams, start_new_session=True), errors
                sys.stdout.flush()
                time.sleep(0.05)
                for run in [run for run, (process, _) in running.items() if process.poll() is not None]:
                    process, errors = running.pop(run)
                    bar.update()
                    errors.seek(0)
                    lines = [line for line in errors.read().splitlines() if line.strip()]
                    if process.returncode:
                        failed[run] = process.returncode, (lines or ["it said nothing"])[-1].removeprefix("error: ")
                        continue
                    for line in lines:  # warnings, which most runs share
                        if line not in said:
                            bar.write(line, sys.stderr)
                    said.update(lines)
        finally:
            stop([process for process, _ in running.values()])
    return failed


def time_left(start, finished, total):
    """How long the rest takes if it goes on as since the start, in words; nothing before the first has finished."""
    if not finished:
        return ""
    seconds = (time.monotonic() - start) * (total - finished) / finished
    return f", about {seconds:.0f} s left" if seconds < 100 else f", about {seconds / 60:.0f} min left"


def stop(processes, patience=30):
    """Interrupt process groups and kill, after some seconds of patience, what is left of them.

    Trainings finish their step, and save.
    """
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + patience
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def carry_out(told, runs, report, jobs, threads, tests=(), refuse=lambda test: None):
    """Start what is not finished, wait for it and report; return the exit code as `main` does.

    Args:
        told: what there is to do, in words.
        runs, tests: scripts.run.Commands; tests, of `runs`, come when these have ended, if theirs is finished.
        report: a function that prints the results.
        refuse: a function of a test that gives its (exit code, error line) if it must not be started, else None.
    """
    print(f"{told}; {jobs} at a time", flush=True)
    # SIGINT even if it is ignored, as in a script's background: runs would inherit that, and could not be stopped.
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # that is nohup
        signals.append(signal.SIGHUP)
    for number in signals:
        signal.signal(number, interrupt)
    try:
        failed = execute([run for run in runs if not run.finished], jobs, threads)
        ready = [test for test in tests if test.run.finished and not test.finished]
        refused = {test: reason for test in ready if (reason := refuse(test))}
        failed |= refused | execute([test for test in ready if test not in refused], jobs, threads)
        report()
    except KeyboardInterrupt as error:
        message = f"{finished_of(runs, tests)} runs are finished, the same command continues"
        print(f"interrupted: {message}", file=sys.stderr)
        return 128 + error.args[0]
    for message in unique(line for _, line in failed.values()):
        alike = [run for run, (_, line) in failed.items() if line == message]
        more = f" and {len(alike) - 1} more" * (len(alike) > 1)
        print(f"error: {alike[0]}{more}: {message}", file=sys.stderr)
    if failed:
        return 2 if all(code == 2 for code, _ in failed.values()) else 1
    return 0


def finished_of(runs, tests=()):
    """How many commands are finished, of how many: "3 of 5"."""
    both = [*runs, *tests]
    return f"{sum(command.finished for command in both)} of {len(both)}"


def interrupt(number, frame):
    """Handle a signal as Ctrl-C, and further ones not at all: the runs are being stopped."""
    for further in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(further, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def report(configs, out, published):
    """Print and write tables and pictures of the finished runs."""
    groups = []
    for folder in unique(run.group for run in configs):
        runs = [run for run in configs if run.group == folder]
        results = table.read_runs(folder, [run.seed for run in runs])
        name = configs[runs[0]].DATASET.NAME
        groups.append(table.Group(runs[0].method, name, runs[0].shots, [run.seed for run in runs], results))
    if not any(group.runs for group in groups):
        return
    table.write(groups, out, published)
    plots.draw_all(groups, out)
    with_prompts = [
        run
        for run, cfg in configs.items()
        if run.finished and cfg.TRAINER.NAME == "SOTGLP" and cfg.TRAINER.SOTGLP.N_LOCAL
    ]
    if with_prompts:
        from scripts import figure

        figure.main([str(with_prompts[0].folder), "--out", str(out / "prompts.png")])


def main(argv=None):
    """Run a comparison; return the exit code: 0, 2 for a mistake of the user, 130 or 143 if stopped, else 1."""
    try:
        runs, out, published = parse(sys.argv[1:] if argv is None else argv)
        configs = configurations(runs)
        jobs, threads = jobs_and_threads()
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    told = f"{len(runs)} runs, {sum(run.finished for run in runs)} of them finished before"
    return carry_out(told, runs, lambda: report(configs, out, published), jobs, threads)


if __name__ == "__main__":
    sys.exit(main())

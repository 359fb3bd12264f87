"""Start many runs: check their configurations first, run some at a time, and stop all together."""

import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path

from tqdm import tqdm

import train
from dassl.config import changed_settings, check_same_run
from dassl.config.compose import FREE_KEYS
from dassl.utils import UserError
from scripts import processes
from scripts.methods import unique, whole_number


def configurations(runs, threads=None):
    """Return {run: the configuration that train.py will compose}.

    Args:
        runs: iterable of scripts.run.Command.
        threads: CPU threads of each run, for the fork server, which starts meanwhile if a run is not finished.

    Raises:
        UserError: train.py would refuse the arguments of a run, or a finished run has other settings, which would make
            the tables wrong.
    """
    if not all(run.finished for run in runs):
        processes.warm_up(threads)
    configs = {run: train.setup_cfg(train.parse_args(run.arguments)) for run in runs}
    # These may change when a run continues, but not once it is finished.
    free = tuple(key for key in FREE_KEYS if key not in ("TEST.", "OPTIM.MAX_EPOCH"))
    for run, cfg in configs.items():
        if not run.finished:
            check_same_run(cfg)
        elif changes := changed_settings(cfg, run.folder, free if run.method.trained else (*free, "OPTIM.")):
            finished = f"{run.folder} is finished with other settings ({changes})"
            raise UserError(f"{finished}: set another OUTPUT, or delete this folder")
    return configs


def jobs_and_threads():
    """Return the number of runs at a time, and the CPU threads of each (None for torch's choice)."""
    cores, jobs = len(os.sched_getaffinity(0)), os.environ.get("JOBS")
    if jobs:
        jobs = whole_number(jobs, 1, "JOBS")
    else:
        import torch  # here, because it takes a second

        jobs = 1 if torch.cuda.is_available() else min(cores, 4)  # a small run gains little from a second core
    return jobs, None if jobs == 1 else max(1, cores // jobs)


def execute(runs, jobs, threads):
    """Start runs, and wait for all.

    Args:
        runs: list of scripts.run.Command.
        jobs: number of runs at a time.
        threads: CPU threads of each; None for torch's choice.

    Returns:
        {run: (exit code, last line of its errors)} of the runs that failed.
    """
    waiting, running, failed, said, start = list(runs), {}, {}, set(), time.monotonic()
    with tqdm(total=len(runs), disable=None, unit="run") as bar, tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run, number = waiting.pop(0), len(runs) - len(waiting)
                    bar.write(f"[{number}/{len(runs)}{time_left(start, number - 1 - len(running), len(runs))}] {run}")
                    errors = Path(folder, f"{number}.txt")
                    errors.touch()
                    running[run] = run.start(threads, errors), errors
                sys.stdout.flush()
                connection.wait([process.sentinel for process, _ in running.values()])
                for run in [run for run, (process, _) in running.items() if process.exitcode is not None]:
                    process, errors = running.pop(run)
                    bar.update()
                    lines = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
                    if process.exitcode:
                        failed[run] = process.exitcode, (lines or ["it printed no error"])[-1].removeprefix("error: ")
                        continue
                    for line in lines:  # warnings, the same in most runs
                        if line not in said:
                            bar.write(line, sys.stderr)
                    said.update(lines)
        finally:
            stop([process for process, _ in running.values()])
    return failed


def time_left(start, finished, total):
    """Return the time left in words, at the pace so far; nothing before the first run has finished.

    Args:
        start: time.monotonic() at the start.
        finished: number of finished runs.
        total: number of all runs.
    """
    if not finished:
        return ""
    seconds = (time.monotonic() - start) * (total - finished) / finished
    return f", about {seconds:.0f} s left" if seconds < 100 else f", about {seconds / 60:.0f} min left"


def stop(processes, patience=30):
    """Interrupt processes with their children, and kill those that do not end in time.

    A training finishes its step and saves.

    Args:
        processes: list of multiprocessing.Process, each the leader of its group.
        patience: seconds before the kill.
    """
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + patience
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def carry_out(plan, runs, report, jobs, threads, tests=(), refuse=lambda test: None):
    """Start all unfinished runs, then their tests, report the results, and return the exit code.

    Args:
        plan: the plan in words, printed first.
        runs: list of scripts.run.Command.
        report: function () that prints the results.
        jobs: number of runs at a time.
        threads: CPU threads of each; None for torch's choice.
        tests: list of scripts.run.Command with the attribute `run`. A test starts only if its run is finished.
        refuse: function of a test; its (exit code, error line) if it must not start, else None.
    """
    print(f"{plan}; {jobs} at a time", flush=True)
    # SIGINT even if it is ignored, as in a shell script's background: runs would inherit that and never stop.
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
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
    """Return the number of finished commands in words: "3 of 5"."""
    both = [*runs, *tests]
    return f"{sum(command.finished for command in both)} of {len(both)}"


def interrupt(number, frame):
    """Handle a signal as Ctrl-C, and ignore further signals while the runs stop."""
    for further in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(further, signal.SIG_IGN)
    raise KeyboardInterrupt(number)

"""Start many runs: check their configurations first, run some at a time, and stop all together."""

import os
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from itertools import zip_longest
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

import train
from dassl.config import changed_settings, check_same_run
from dassl.config.compose import FREE_KEYS
from dassl.utils import UserError, choose_device
from scripts.methods import unique, whole_number

GROUPS = hasattr(os, "killpg")  # of processes; Windows has none, and no SIGHUP
SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\] .*?\bloss (\S+)")  # in a run's log


def configurations(runs):
    """Return {run: the configuration that train.py will compose}.

    Raises:
        UserError: train.py would refuse the arguments of a run, or a finished run has other settings, which would make
            the tables wrong.
    """
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = os.environ.get("JOBS")
    if jobs:
        jobs = whole_number(jobs, 1, "JOBS")
    else:
        jobs = min(cores, 4) if choose_device().type == "cpu" else 1  # a small run gains little from a second core
    return jobs, None if jobs == 1 else max(1, cores // jobs)


def execute(runs, jobs, threads):
    """Start runs on this machine, and wait for all.

    Args:
        runs: list of scripts.run.Command.
        jobs: number of runs at a time.
        threads: CPU threads of each; None for torch's choice.

    Returns:
        {run: (exit code, last line of its errors)} of the runs that failed.
    """
    waiting, running, failed, said = list(runs), {}, {}, set()
    with Display(len(runs), jobs) as display, tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run, number = waiting.pop(0), len(runs) - len(waiting)
                    display.line(f"[{number}/{len(runs)}{display.time_left(running)}] {run}")
                    run.failure.unlink(missing_ok=True)
                    errors = Path(folder, f"{number}.txt")
                    errors.touch()
                    running[run] = run.start(threads, errors), errors
                connection.wait([process.sentinel for process, _ in running.values()], display.seconds)
                display.show(running)
                for run in [run for run, (process, _) in running.items() if process.exitcode is not None]:
                    process, errors = running.pop(run)
                    display.finished()
                    lines = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
                    if process.exitcode:
                        run.fail(process.exitcode, lines or ["it printed no error"])
                        failed[run] = run.failed
                        continue
                    for line in lines:  # warnings, the same in most runs
                        if line not in said:
                            display.line(line, sys.stderr)
                    said.update(lines)
        finally:
            stop([process for process, _ in running.values()])
    if runs:
        print(f"{len(runs)} runs took {in_words(time.monotonic() - display.start)}", flush=True)
    return failed


class Display:
    """What a terminal shows of runs: a bar of the finished ones, and a line for each that is running.

    In a file there are only plain lines.

    Args:
        total: number of runs.
        jobs: number of runs at a time.

    Attributes:
        seconds: between two calls of `show`; None if there is nothing to show.
    """

    def __init__(self, total, jobs):
        self.bar = tqdm(
            total=total, disable=None if total else True, bar_format="{l_bar}{bar}| {n}/{total} runs{postfix}"
        )
        n_lines = 0 if self.bar.disable else min(jobs, total)
        self.lines = [tqdm(bar_format="{desc}", position=i + 1, leave=False) for i in range(n_lines)]
        self.seconds = 1.0 if n_lines else None
        self.total, self.done, self.start = total, 0, time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for bar in (*self.lines, self.bar):
            bar.close()

    def line(self, text, file=None):
        """Print a line that stays."""
        self.bar.write(text, file)
        (file or sys.stdout).flush()

    def show(self, running):
        """Show how far the runs are that are running."""
        if self.lines:
            reached = {run: progress(run.folder) for run in running}
            texts = [f"  {run}: {far}" for run, far in reached.items()]
            for bar, text in zip_longest(self.lines, texts, fillvalue=""):
                bar.set_description_str(text)
            self.bar.set_postfix_str(self.left(reached.values()).removeprefix(", "))

    def finished(self):
        """Count a run."""
        self.done += 1
        self.bar.update()

    def time_left(self, running):
        """Return the time left in words, at the pace so far; nothing before the first epoch of a run has finished.

        Args:
            running: the runs that are running, whose epochs count.
        """
        return self.left(progress(run.folder) for run in running)

    def left(self, reached):
        """Return what `time_left` does of the Progress that the running runs have made."""
        done = self.done + sum(far.share for far in reached)
        seconds = time.monotonic() - self.start
        return f", about {in_words(seconds * (self.total - done) / done)} left" if done else ""


class Progress(NamedTuple):
    """How far a run is: its finished epochs, all epochs, and its last loss."""

    epoch: int = 0
    epochs: int = 1
    loss: str = ""

    def __str__(self):
        return f"epoch {self.epoch}/{self.epochs}, loss {self.loss}" if self.loss else ""

    @property
    def share(self):
        return self.epoch / self.epochs


def progress(folder):
    """Return the Progress that the newest log in a run's folder tells of."""
    logs = sorted(Path(folder).glob("log.txt*"), key=lambda path: path.stat().st_mtime)
    found = EPOCH.findall(logs[-1].read_text(encoding="utf-8", errors="replace")) if logs else []
    return Progress(int(found[-1][0]), int(found[-1][1]), found[-1][2]) if found else Progress()


def in_words(seconds):
    """Return seconds as text: 85 s, 12 min, 3 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def stop(processes, patience=30):
    """Interrupt processes with their children, and kill those that do not end in time.

    A training finishes its step and saves.

    Args:
        processes: list of multiprocessing.Process, each the leader of its group.
        patience: seconds before the kill.
    """
    for process in processes:
        if GROUPS:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
    deadline = time.monotonic() + patience
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        if GROUPS:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.join()


def carry_out(plan, runs, report, launch, tests=(), refuse=lambda test: None):
    """Start all unfinished runs, then their tests, report the results, and return the exit code.

    Args:
        plan: the plan in words, printed first.
        runs: list of scripts.run.Command.
        report: function () that prints the results.
        launch: function of a list of Commands, which starts them and returns {command: its `failed`}.
        tests: list of scripts.run.Command with the attribute `run`. A test starts only if its run is finished.
        refuse: function of a test; its (exit code, error line) if it must not start, else None.
    """
    print(plan, flush=True)
    # SIGINT even if it is ignored, as in a shell script's background: runs would inherit that and never stop.
    for number in SIGNALS:
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, interrupt)
    try:
        failed = launch([run for run in runs if not run.finished])
        ready = [test for test in tests if test.run.finished and not test.finished]
        refused = {test: reason for test in ready if (reason := refuse(test))}
        failed |= refused | launch([test for test in ready if test not in refused])
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
    for further in SIGNALS:
        signal.signal(further, signal.SIG_IGN)
    raise KeyboardInterrupt(number)

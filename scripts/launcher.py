"""Where a comparison's runs run, and what each of them does: --launcher, --cluster and --status."""

import shutil
from functools import partial
from pathlib import Path

from tabulate import tabulate

from dassl.config import has_checkpoint
from dassl.utils import owner
from scripts import processes, slurm
from scripts.execution import execute, jobs_and_threads, progress
from scripts.methods import unique


def add_launcher(parser):
    """Let a parser take these flags."""
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="slurm: as jobs of a Slurm cluster, which go on if this command ends (local)",
    )
    parser.add_argument(
        "--cluster",
        type=Path,
        default=slurm.CLUSTER,
        metavar="FILE",
        help=f"what a job of Slurm asks for, where it differs from {slurm.CLUSTER}",
    )
    parser.add_argument("--status", action="store_true", help="list the runs with their states, and start nothing")


def launch_of(args, runs):
    """Return the function that `scripts.execution.carry_out` launches runs with.

    Args:
        args: with the flags of `add_launcher`.
        runs: list of scripts.run.Command. Unless all are finished, the fork server starts now, to be warm in time.
    """
    if args.launcher == "slurm":
        return partial(slurm.execute_on, slurm.read_cluster(args.cluster), runs[0].output)
    jobs, threads = jobs_and_threads()
    if not all(run.finished for run in runs):
        processes.warm_up(threads)
    print(f"{jobs} at a time")
    return partial(execute, jobs=jobs, threads=threads)


def show_status(commands, output):
    """Print a table of commands with their states, and return the exit code.

    Args:
        commands: list of scripts.run.Command.
        output: folder of the results.
    """
    queue = slurm.Jobs(output)
    jobs = queue.states() if queue.folder.is_dir() and shutil.which("squeue") else {}
    rows = [(command, *state_of(command, jobs.get(slurm.result_of(command)))) for command in commands]
    print(tabulate(rows, ["run", "state", ""], maxcolwidths=[None, None, 80], disable_numparse=True))
    states = [state for _, state, _ in rows]
    print("\n" + ", ".join(f"{states.count(state)} {state}" for state in unique(states)))
    return 0


def state_of(command, job=None):
    """Return the state of a command in one or two words, and more about it.

    Args:
        command: a scripts.run.Command.
        job: state of the job of Slurm that it stands in, if there is one.
    """
    if command.finished:
        return "finished", ""
    who = owner(command.folder)
    if who and job in (None, "RUNNING"):
        return "running", f"{progress(command.folder)} {who}".lstrip()
    if job:
        return "queued", "" if job == "PENDING" else f"its job is {job.lower()}"
    if command.failed:
        return "failed", f"{command.failed[1]} ({command.failure})"
    return ("stopped", str(progress(command.folder))) if has_checkpoint(command.folder) else ("not started", "")

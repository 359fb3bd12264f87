"""Runs as jobs of a Slurm cluster, through submitit: --launcher slurm of the comparisons.

A job takes some runs that share a backbone and a data set, and does with them what a comparison does on one machine
(scripts.execution.execute). So it encodes test images once, skips what is finished, and continues what was stopped. It
is put back into the queue before its time is over, when it is preempted, and when its node fails.

Slurm's queue is the only record of what is going on: a job's name leads to the list of its runs in OUTPUT/slurm. So
the command that submitted them may die. The same command finds its jobs again, and submits only what is in none.
"""

import getpass
import itertools
import multiprocessing
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from dassl.utils import UserError, read_json, write_json
from scripts.execution import execute, jobs_and_threads, stop
from scripts.methods import CONFIGS, check_name, read_yaml

CLUSTER = CONFIGS / "slurm.yaml"
PREFIX = "sotglp-"  # of the names of jobs
POLL = 2.0  # seconds between two looks at the queue at first; more later, since a cluster's queue is shared
LONGEST_POLL = 60.0


@dataclass(frozen=True)
class Share:
    """A job: the function that submitit calls on a node."""

    commands: tuple

    def __call__(self):
        execute([command for command in self.commands if not command.finished], *jobs_and_threads())

    def checkpoint(self):
        """Stop the runs, which save, and return what goes back into the queue."""
        from submitit.helpers import DelayedSubmission

        stop(multiprocessing.active_children())
        return DelayedSubmission(self)


class Jobs:
    """The jobs of an OUTPUT folder in Slurm's queue.

    Args:
        output: folder of the results, which all nodes share.
    """

    def __init__(self, output):
        self.folder = Path(output, "slurm").absolute()

    def states(self):
        """Return {folder and file of a result: state} of all that stands in a job of the queue, as Slurm says it."""
        listed = squeue()
        states = {}
        for path in self.folder.glob("*.json"):
            for number, results in enumerate(read_json(path)):
                if state := listed.get((PREFIX + path.stem, number)):
                    states |= dict.fromkeys(results, state)
        return states

    def submit(self, commands, cluster):
        """Put commands into the queue as one array of jobs."""
        import submitit

        shares = shares_of(commands, cluster["runs_per_job"])
        plan = uuid.uuid4().hex[:12]
        write_json([[result_of(command) for command in share] for share in shares], self.folder / f"{plan}.json")
        executor = submitit.SlurmExecutor(self.folder / "logs", max_num_timeout=1000)
        executor.update_parameters(
            job_name=PREFIX + plan,
            time=round(60 * cluster["hours"]),
            cpus_per_task=cluster["cpus"],
            signal_delay_s=cluster["seconds_to_save"],
            additional_parameters={"requeue": True, **sbatch_options(cluster)},
        )
        with executor.batch():
            jobs = [executor.submit(Share(tuple(share))) for share in shares]
        number = jobs[0].job_id.partition("_")[0]
        print(f"Submitted {len(jobs)} jobs to Slurm, number {number}; their logs are in {executor.folder}")


def execute_on(cluster, output, commands):
    """Do what scripts.execution.execute does, on a Slurm cluster; the jobs go on if this process ends.

    Args:
        cluster: content of the YAML file, see `read_cluster`.
        output: folder of the results.
        commands: list of scripts.run.Command.
    """
    if not commands:
        return {}
    queue = Jobs(output)
    there = queue.states()
    if missing := [command for command in commands if result_of(command) not in there]:
        queue.submit(missing, cluster)
    wait = POLL
    with tqdm(total=len(commands), disable=None, unit="run") as bar:
        while True:
            states = queue.states()
            done = sum(command.finished for command in commands)
            bar.update(done - bar.n)
            waiting = [states[result_of(command)] for command in commands if result_of(command) in states]
            bar.set_postfix_str(", ".join(f"{waiting.count(s)} {s.lower()}" for s in sorted(set(waiting))))
            if not waiting:
                break
            time.sleep(wait)
            wait = min(1.1 * wait, LONGEST_POLL)
    lost = 1, f"its job ended without a result: see {queue.folder / 'logs'}"
    return {command: command.failed or lost for command in commands if not command.finished}


def result_of(command):
    """Return what identifies a command: the path of its result."""
    return str((command.folder / command.result).absolute())


def shares_of(commands, size):
    """Return lists of up to `size` commands that share a backbone and a data set."""

    def shared(command):
        run = getattr(command, "run", command)
        return run.backbone, run.dataset

    groups = [list(group) for _, group in itertools.groupby(sorted(commands, key=shared), shared)]
    return [group[i : i + size] for group in groups for i in range(0, len(group), size)]


def squeue():
    """Return {(name, index in its array): state} of the user's jobs in the queue.

    Raises:
        UserError: Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%j|%K|%T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        raise UserError(f"squeue does not answer ({reason}): start this on a machine of a Slurm cluster") from error
    lines = [line.strip().split("|") for line in answer.splitlines()]
    return {(name, int(index) if index.isdigit() else 0): state for name, index, state in lines}


def read_cluster(path):
    """Return {key: value} of a YAML file about jobs; the keys and the defaults are those of configs/slurm.yaml.

    Raises:
        UserError: The file cannot be read, has an unknown key, or a value of another kind.
    """
    cluster = read_yaml(CLUSTER)
    for key, value in read_yaml(path).items():
        check_name(key, list(cluster), f"key in {path}:")
        kind = (int, float) if key == "hours" else type(cluster[key])
        if not isinstance(value, kind) or (kind not in (str, dict) and not (value > 0 or key == "gpus" and value == 0)):
            raise UserError(f"{path}: {key} must be like {cluster[key]!r}, not {value!r}")
        cluster[key] = value
    if shutil.which("sbatch") is None:
        raise UserError("--launcher slurm needs Slurm's sbatch: start this on a login node, or use --launcher local")
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError('--launcher slurm needs submitit: pip install -e ".[slurm]"') from error
    return cluster


def sbatch_options(cluster):
    """Return further options of sbatch."""
    options = {"gpus": cluster["gpus"] or None, "partition": cluster["partition"] or None, **cluster["sbatch"]}
    return {name: value for name, value in options.items() if value is not None}

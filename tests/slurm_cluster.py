"""A real Slurm for tests: Debian's munge, slurmctld and slurmd, one controller and one node on the loopback."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from processes import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=30
SlurmdTimeout=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
"""


def lacks():
    """Return why there can be no cluster here; nothing if there can be one."""
    if os.geteuid():
        return "slurmd needs root"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    lacking = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


class Cluster:
    """It runs while the object is a context; `environment` leads programs to it.

    Args:
        folder: Path of an empty folder. Sockets lie in it, so it must be short.
    """

    def __init__(self, folder):
        self.folder, self.host = folder, socket.gethostname()
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment["PATH"] += os.pathsep + "/usr/sbin"

    def __enter__(self):
        folder = self.folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o600)
        (folder / "slurm.conf").write_text(CONF.format(host=self.host, folder=folder, ports=free_ports(2)))
        files = {"socket": "munge.socket", "key-file": "key", "pid-file": "munge.pid"}
        files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        self.call("munged", "--force", *(f"--{flag}={folder / name}" for flag, name in files.items()))
        self.call("slurmctld")
        self.call("slurmd")
        wait_for(lambda: "idle" in self.call("sinfo", "--noheader"))
        return self

    def __exit__(self, *_):
        self.kill_node()
        for name in ("slurmctld.pid", "munge.pid"):
            with suppress(OSError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGKILL)

    def call(self, *words):
        """Run a program of Slurm; return what it prints."""
        return subprocess.run(words, env=self.environment, check=True, capture_output=True, text=True).stdout

    def states(self):
        """Return the states of all jobs in the queue."""
        return self.call("squeue", "--noheader", "--array", "--format=%T").split()

    def end_time(self):
        """Send all jobs what Slurm sends some time before their limit, or to preempt them."""
        for job in self.jobs():
            self.call("scancel", "--signal=USR2", job)

    def start_now(self):
        """Let jobs start soon that Slurm has put back into the queue; by itself it waits for two minutes."""
        wait_for(lambda: "idle" in self.call("sinfo", "--noheader"))
        time.sleep(3)  # until the node has forgotten the job
        for job in self.jobs():
            self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def jobs(self):
        """Return the numbers of all jobs in the queue."""
        return self.call("squeue", "--noheader", "--format=%A").split()

    def kill_node(self):
        """Kill the node: its daemon, and every process of its jobs."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (process / "environ").read_bytes().split(b"\0")
                ours = f"SLURM_CONF={self.folder}/slurm.conf".encode() in variables
                in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
                name = (process / "comm").read_text().strip()
                if ours and (in_job or name.startswith(("slurmd", "slurmstepd"))):
                    os.kill(int(process.name), signal.SIGKILL)

    def replace_node(self):
        """Let Slurm see that the node is down, and start another one in its place."""
        self.call("scontrol", "update", f"NodeName={self.host}", "State=DOWN", "Reason=killed")
        shutil.rmtree(self.folder / "spool")
        (self.folder / "spool").mkdir()
        self.call("slurmd")


def free_ports(number):
    """Return so many free ports of the loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports

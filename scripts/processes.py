"""Start programs in processes that have imported their modules already.

A fork server (multiprocessing) imports torch and the plugins once, and each program runs in a fork of it. It never
touches a GPU, which could not be used in a fork then. Elsewhere than on Linux each program imports them: Windows has no
forks, and libraries of macOS, Metal among them, do not work in one.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver

# By default malloc returns large buffers to the system after each training step, and gets them again in the next: a
# sixth of a CPU run's time. glibc reads these variables when a process starts.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
FORKS = sys.platform == "linux"


def start(module, arguments, threads=None, errors=None):
    """Return the multiprocessing.Process of a program, started now. It gets an interrupt when this process dies.

    Args:
        module: the program: a module with a `main(argv)` that returns an exit code.
        arguments: list of words for it.
        threads: threads of torch on the CPU; None for torch's choice.
        errors: path of a file for what it prints to stderr. Then the rest of its output is lost, and it leads a group
            of processes of its own, which an interrupt from the terminal does not reach. None: all as this process.
    """
    warm_up(threads)
    context = multiprocessing.get_context("forkserver" if FORKS else "spawn")
    process = context.Process(target=run, args=(module, arguments, os.getcwd(), variables(threads), threads, errors))
    process.start()
    return process


def variables(threads):
    """Return the environment variables of a program."""
    return {**MALLOC, **os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}


def warm_up(threads=None):
    """Start the fork server, unless it runs. It imports its modules while this process goes on.

    Args:
        threads: as for `start`.
    """
    if FORKS:
        forkserver.set_forkserver_preload(["scripts.warm"])
        with changed_environment({**variables(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}):
            forkserver.ensure_running()


@contextlib.contextmanager
def changed_environment(values):
    """Set environment variables while the block runs."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(module, arguments, folder, environment, threads, errors):
    """Run a program in this process, which is new, and exit with its code; the arguments are those of `start`."""
    if errors is not None:
        redirect(errors)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Background jobs of a shell script ignore SIGINT, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    multiprocessing.set_start_method(None, force=True)  # of worker processes: as in a program of its own
    if threads:
        import torch  # here, because this process may be one that plans runs

        torch.set_num_threads(threads)
    sys.exit(importlib.import_module(module).main(arguments))


def end_with(parent):
    """Interrupt this process when the one that started it dies, even if it is killed."""
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)


def redirect(errors):
    """Lead a new group of processes, with stderr in a file, and without input and other output."""
    if hasattr(os, "setsid"):
        os.setsid()
    for path, flags, stream in (
        (os.devnull, os.O_RDONLY, 0),
        (os.devnull, os.O_WRONLY, 1),
        (errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 2),
    ):
        file = os.open(path, flags)
        os.dup2(file, stream)
        os.close(file)

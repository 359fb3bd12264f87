"""A python that starts in no time: each of its processes is a fork of one that has imported torch and other libraries.

`warm_python()` gives the path of a program that stands for `python`. It hands its command line, environment, folder
and open files to a server, which forks; the fork runs the command line as python does, with modules of the project
imported anew. Processes that it starts by `sys.executable` are such forks too. A signal to the program does not reach
its fork, so tests that kill start python itself, as do those of what is imported.
"""

import atexit
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

LIBRARIES = ("torch", "torchvision", "open_clip", "torch.utils.tensorboard", "sklearn.linear_model", "sklearn.metrics")
FREE = 500  # a program's files have numbers from here on before they get those that they had


@contextlib.contextmanager
def warm_python(environment):
    """The path of the program, while the server runs; elsewhere than on Linux that of python.

    Args:
        environment: variables of the server, for what libraries read when they are imported.
    """
    if sys.platform != "linux":
        yield Path(sys.executable)
        return
    with tempfile.TemporaryDirectory() as folder:  # of pytest's, whose paths may be too long for a socket
        program, listener = Path(folder, "python"), Path(folder, "socket")
        words = [sys.executable, __file__, str(listener), str(program)]
        program.write_text(f'#!/bin/sh\nexec {shlex.join([words[0], "-IS", *words[1:3]])} -- "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(words, env=environment, cwd="/", **streams) as server:  # it ends with its input
            assert server.stdout.readline() == b"ready\n"
            yield program


def ask(listener, words):
    """Let the server run a command line; return its exit code, negative for a signal."""
    if words[0].startswith("-") and words[0] not in ("-", "-c", "-m", "-B", "-u"):
        os.execv(sys.executable, [sys.executable, *words])
    files = [number for number in map(int, os.listdir("/dev/fd")) if is_open(number)]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(listener)
        socket.send_fds(connection, [b"."], files)
        request = {"words": words, "files": files, "folder": os.getcwd(), "environment": dict(os.environ)}
        connection.sendall(json.dumps(request).encode() + b"\n")
        for number in files:  # or the readers of a pipe would wait for this process as well
            if number > 2:
                os.close(number)
        return int(connection.makefile().readline())


def is_open(number):
    """Whether a file is open still; the one that listed the files is not."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def serve(listener):
    """Fork for every request; return one in its fork, whose files, folder and environment are the program's."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # collections in forks would copy what they share
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(listener)
        server.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [], 1)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            if sys.stdin in ready:
                os._exit(0)
            if server in ready:
                connection, _ = server.accept()
                if not os.fork():
                    break
                connection.close()
    with connection:
        _, received, _, _ = socket.recv_fds(connection, 1, 200)
        request = json.loads(connection.makefile(encoding="utf-8").readline())
        if process := os.fork():
            for number in received:
                os.close(number)
            _, status = os.waitpid(process, 0)
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    moved = [os.dup2(number, FREE + i) for i, number in enumerate(received)]
    for number in received:
        os.close(number)
    for number, place in zip(moved, request["files"], strict=True):
        os.dup2(number, place)
        os.close(number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["words"]


def run(program, words):
    """Run a command line as python does."""
    sys.executable = program
    multiprocessing.set_executable(program)
    while words[0] in ("-B", "-u"):  # of children's; files are not buffered anew
        words = words[1:]
    kind, *rest = words
    sys.argv = words[1:] if kind == "-m" else words[:1] + words[2:] if kind == "-c" else words
    extra = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    first = {"-m": os.getcwd(), "-c": "", "-": ""}.get(kind, str(Path(kind).resolve().parent))
    sys.path[:1] = [first, *extra]
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind in ("-", "-c"):
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(sys.stdin.read() if kind == "-" else rest[0], "<string>", "exec"), vars(main))
    else:
        runpy.run_path(kind, run_name="__main__")


class Exit:
    """Ends a fork once all else that was registered for its exit is done.

    Python would take its modules apart, and so copy what the fork shares with the server: half a second.
    """

    code = 0

    def __init__(self):
        atexit.register(self)  # the first that is registered is called last

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        code = error.code if kind is SystemExit else kind and 1
        self.code = code if isinstance(code, int) else int(code is not None)

    def __call__(self):
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            with contextlib.suppress(ValueError):  # it is closed
                stream.flush()
        os._exit(self.code & 0xFF)


if __name__ == "__main__":
    if sys.argv[2] == "--":
        code = ask(sys.argv[1], sys.argv[3:])
        if code < 0:
            os.kill(os.getpid(), -code)
        sys.exit(code)
    with Exit():
        run(sys.argv[2], serve(sys.argv[1]))

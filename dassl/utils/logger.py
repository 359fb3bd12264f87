"""Copy the output of a run to a file."""

import contextlib
import os
import os.path as osp
import sys
import time

from .distributed import is_main
from .tools import mkdir_if_missing


class Logger:
    """A stream that writes to the console and to a file.

    All other attributes (isatty, fileno, encoding, ...) are those of the console. The console is never closed.

    Args:
        fpath: Path of the file.
        console: The stream of the console; sys.stdout if None.
    """

    def __init__(self, fpath, console=None):
        self.console = sys.stdout if console is None else console
        mkdir_if_missing(osp.dirname(fpath))
        self.file = open(fpath, "w", encoding="utf-8", buffering=1)  # written line by line: a killed run keeps its log

    def __getattr__(self, name):
        if name in ("console", "file"):  # not set yet: looking them up here again would never end
            raise AttributeError(name)
        return getattr(self.console, name)

    def write(self, text):
        self.console.write(text)
        self.to_file(lambda: self.file.write(text))
        return len(text)

    def flush(self):
        self.console.flush()
        self.to_file(lambda: (self.file.flush(), os.fsync(self.file.fileno())))

    def to_file(self, action):
        """Do something with the file; if that fails (the disk is full, say), report it and end the log, not the run."""
        if self.file.closed:
            return
        try:
            action()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing writes the rest
                self.file.close()
            print(f"logging to {self.file.name} stops: {error.strerror or error}", file=sys.stderr)

    def close(self):
        """Close the file; the console stays open."""
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def log_only(line):
    """Write a line to the log, if there is one, and not to the console."""
    if isinstance(sys.stdout, Logger):
        sys.stdout.to_file(lambda: sys.stdout.file.write(f"{line}\n"))


def setup_logger(output=None):
    """Copy to a file what is printed from now on.

    Args:
        output: A path that ends in .txt or .log, or the folder of a log.txt; None does nothing. An existing log is
            kept: date and time are added to the name of the new one.
    """
    if output is None or not is_main():
        return
    first = fpath = output if output.endswith((".txt", ".log")) else osp.join(output, "log.txt")
    while osp.exists(fpath):
        if fpath != first:  # another log began in this second
            time.sleep(0.1)
        fpath = first + time.strftime("-%Y-%m-%d-%H-%M-%S")
    console = sys.stdout
    if isinstance(console, Logger):  # a second call replaces the first
        console.close()
        console = console.console
    sys.stdout = Logger(fpath, console)

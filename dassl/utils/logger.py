"""Copy what is printed into a file."""

import contextlib
import os
import os.path as osp
import sys
import time

from .distributed import is_main
from .tools import mkdir_if_missing


class Logger:
    """Stand in for a console stream: what is written goes to the console and to `fpath`.

    Everything else (isatty, fileno, encoding, ...) is the console's; only the file is ever closed.
    """

    def __init__(self, fpath, console=None):
        self.console = sys.stdout if console is None else console
        mkdir_if_missing(osp.dirname(fpath))
        self.file = open(fpath, "w", encoding="utf-8", buffering=1)  # by line: a killed run keeps its log

    def __getattr__(self, name):
        if name in ("console", "file"):  # not set yet: asking them for themselves would never end
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
        """What cannot be logged, on a full disk say, stops no run: the log ends, and that is told."""
        if self.file.closed:
            return
        try:
            action()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing writes what is left
                self.file.close()
            print(f"{self.file.name} ends here: {error.strerror or error}", file=sys.stderr)

    def close(self):
        """Close the file; the console goes on."""
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def setup_logger(output=None):
    """Copy everything printed from now on to a file.

    Args:
        output: a file ending in .txt or .log, or a folder, where log.txt is written; None does nothing.
            A log that is already there is kept: the new one's name then ends in date and time.
    """
    if output is None or not is_main():
        return
    fpath = output if output.endswith((".txt", ".log")) else osp.join(output, "log.txt")
    if osp.exists(fpath):
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    console = sys.stdout
    if isinstance(console, Logger):  # a second call replaces the first
        console.close()
        console = console.console
    sys.stdout = Logger(fpath, console)

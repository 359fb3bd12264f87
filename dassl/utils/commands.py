"""What all commands share: the argument parser, errors in one line, exit codes."""

import argparse
import atexit
import contextlib
import functools
import gc
import os
import sys
import warnings

from .distributed import is_main


class UserError(ValueError):
    """A mistake that the user can correct.

    Only the last line of the message is kept. A DataLoader raises the error of a worker process again with the whole
    traceback as its message, whose last line is the original one.

    Args:
        message: One line: what is wrong, what is allowed, what to do.
    """

    def __init__(self, message):
        last_line = message.strip().rpartition("\n")[2]
        super().__init__(last_line.removeprefix(f"{__name__}.UserError: "))


class Parser(argparse.ArgumentParser):
    """An argument parser whose help begins with its description, lines kept, and whose errors are UserErrors."""

    def __init__(self, description):
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, usage=argparse.SUPPRESS, formatter_class=layout)

    def error(self, message):
        raise UserError(f"{message} (see --help)")


@contextlib.contextmanager
def user_input(kinds=(ValueError, OSError)):
    """Run a block that reads the user's input, in which errors are the user's mistakes.

    Args:
        kinds: The types of these errors.

    Raises:
        UserError: Replaces an error of these types.
    """
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except kinds as error:
        raise UserError(" ".join(str(error).split())) from error


class Note(UserWarning):
    """What a user should know, in one line; nothing is wrong."""


def note(message):
    """Say something once: a command prints it to stderr, as it does with warnings."""
    warnings.warn(message, Note, stacklevel=2)


@contextlib.contextmanager
def one_line_warnings():
    """Show warnings, in the block, as one line each, without a file and a line of code."""

    def show(message, category, *_):
        kind = "note" if issubclass(category, Note) else "warning"
        return f"{kind}: {' '.join(str(message).split())}\n" if is_main() else ""

    before, warnings.formatwarning = warnings.formatwarning, show
    try:
        yield
    finally:
        warnings.formatwarning = before


def command(main):
    """Decorate the `main(argv=None)` of a command, which returns an exit code; None means 0.

    A UserError becomes one line on stderr and exit code 2, KeyboardInterrupt becomes 130, and output that nobody reads
    141. Warnings are one line each.
    """

    @functools.wraps(main)
    def run(argv=None):
        # Otherwise Python looks for cycles among all objects of torch before it exits, which takes a second or more.
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)
        try:
            with one_line_warnings():
                return main(argv) or 0
        except UserError as error:
            if is_main():
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # whoever read the output has ended, as `head` does after its lines
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    return run

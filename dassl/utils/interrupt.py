"""SIGINT and SIGTERM: the run finishes its training step and ends with the exit code of the signal."""

import contextlib
import os
import signal
import threading
import time

from .distributed import world_size

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
ECHO = 0.5  # seconds in which a second signal counts as the first: the terminal and a script may both send it


class Interrupted(KeyboardInterrupt):
    """A signal asks the run to end.

    Attributes:
        code: Exit code for the signal, 128 + its number.
    """

    def __init__(self, number):
        super().__init__(SIGNALS[number])
        self.code = 128 + number


class _State:
    put_off, pending, since = False, None, 0.0


@contextlib.contextmanager
def signals_interrupt():
    """Let signals raise Interrupted while the block runs; a second signal ends the process at once."""

    def handle(number, frame):
        if _State.pending is not None:
            if time.monotonic() - _State.since > ECHO:
                os._exit(128 + number)
            return
        _State.pending, _State.since = number, time.monotonic()
        if not _State.put_off:
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        _State.pending = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted():
    """Run a block that signals do not cut: Interrupted is raised at its end."""
    outer, _State.put_off = _State.put_off, True
    try:
        yield
    finally:
        _State.put_off = outer
    if _State.pending is not None and not outer:
        raise Interrupted(_State.pending)


def raise_together():
    """Raise Interrupted in all processes of a run if a signal reached one of them.

    All processes call it after the same step, or the same batch of a test; signals wait until then.
    """
    import torch  # here, so that commands answer --help without it
    from torch import distributed

    pending = torch.tensor(_State.pending or 0)
    if world_size() > 1:
        distributed.all_reduce(pending, distributed.ReduceOp.MAX)
    if pending:
        raise Interrupted(pending.item())

"""SIGINT and SIGTERM: a training step is finished first, and the run ends with the signal's exit code."""

import contextlib
import os
import signal
import time

import torch
from torch import distributed

from .distributed import world_size

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
ECHO = 0.5  # seconds in which a second signal is the first one again: of the terminal, and passed on by a script


class Interrupted(KeyboardInterrupt):
    """A signal asks the run to end; `code` is the exit code that says so, 128 + its number."""

    def __init__(self, number):
        super().__init__(SIGNALS[number])
        self.code = 128 + number


class _State:
    put_off, pending, since = False, None, 0.0


@contextlib.contextmanager
def signals_interrupt():
    """Signals raise Interrupted while the block runs; a second one ends the process at once."""

    def handle(number, frame):
        if _State.pending is not None:
            if time.monotonic() - _State.since > ECHO:
                os._exit(128 + number)
            return
        _State.pending, _State.since = number, time.monotonic()
        if not _State.put_off:
            raise Interrupted(number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        _State.pending = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted():
    """A block that signals do not cut: Interrupted is raised at its end."""
    outer, _State.put_off = _State.put_off, True
    try:
        yield
    finally:
        _State.put_off = outer
    if _State.pending is not None and not outer:
        raise Interrupted(_State.pending)


def raise_together():
    """Raise Interrupted in all of a run's processes if a signal has asked one of them to end.

    Called by all processes after the same step, or the same batch of a test; several have put signals off until then.
    """
    pending = torch.tensor(_State.pending or 0)
    if world_size() > 1:
        distributed.all_reduce(pending, distributed.ReduceOp.MAX)
    if pending:
        raise Interrupted(pending.item())

"""Processes that a test has started: whether they live, and waiting for them."""

import time
from pathlib import Path


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def living(text, by="cmdline"):
    """Processes that are no zombies, whose command line holds the text, or whose session is of that number."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            cmdline = (folder / "cmdline").read_text()
        except OSError:
            continue
        if status[0] != "Z" and (text == status[3] if by == "session" else text in cmdline):
            found.append(folder.name)
    return found

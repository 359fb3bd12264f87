"""Processes that a test has started: whether they live, and waiting for what they do.

A wait ends when what it waits for happens, or when the process that should cause it has ended. Only what hangs meets
the limit, PATIENCE; the environment variable TEST_PATIENCE is a factor for it.
"""

import os
import subprocess
import time
from pathlib import Path

import pytest

PATIENCE = 600 * float(os.environ.get("TEST_PATIENCE", "1"))  # seconds


def wait_for(condition, process=None):
    """Return once the condition holds; fail if the process that should cause it has ended and it does not hold.

    The process is of subprocess or of multiprocessing.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        code = None if process is None else process.exitcode if hasattr(process, "exitcode") else process.poll()
        if code is not None and not condition():  # it may hold since the process has ended
            pytest.fail(f"the process ended with {code} before what the test waits for\n{output_of(process)}")
        if time.monotonic() > end:
            pytest.fail(f"what the test waits for has not happened for {PATIENCE:.0f} s")
        time.sleep(0.05)


def output_of(process):
    """What a process that has ended wrote to its pipes, if it has pipes."""
    if not isinstance(process, subprocess.Popen):
        return ""
    try:
        return "\n".join(text for text in process.communicate(timeout=10) if text)
    except subprocess.TimeoutExpired:
        return "its output is still open in a process that it started"


def finish(process, patience=PATIENCE):
    """Wait until a process of subprocess ends; return (stdout, stderr)."""
    try:
        return process.communicate(timeout=patience)
    except subprocess.TimeoutExpired as error:
        process.kill()
        output = b"\n".join(text[-4000:] for text in (error.stdout, error.stderr) if text)
        pytest.fail(f"{process.args} has not ended after {patience:.0f} s\n{output.decode(errors='replace')}")


def complete(command, patience=PATIENCE, **options):
    """Run a command to its end; return its subprocess.CompletedProcess, with output as text."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = subprocess.Popen(command, **options)
    stdout, stderr = finish(process, patience)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def exit_code(process):
    """Wait until a process of multiprocessing ends; return its exit code."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{process.name} has not ended after {PATIENCE:.0f} s")
    return process.exitcode


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

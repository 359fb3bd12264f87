"""What is imported: commands answer --help and mistakes without torch, and the library waits with open_clip."""

import subprocess
import sys

import pytest

COMMANDS = (
    *("scripts", "scripts.run", "scripts.compare", "scripts.transfer", "scripts.ood_detection", "scripts.ood"),
    "scripts.localize",
    *("train", "scripts.predict", "scripts.visualize", "scripts.report", "scripts.export"),
    *("scripts.table", "scripts.plots", "scripts.conformance", "dassl.doctor", "datasets.check", "datasets.prepare"),
    *("benchmarks", "benchmarks.step", "benchmarks.text_tower", "benchmarks.transport", "benchmarks.evaluation"),
    *("benchmarks.loading", "benchmarks.busy", "benchmarks.comparison", "benchmarks.cost"),
    *("scripts.embedded.evaluate", "scripts.embedded.make_data", "scripts.embedded.pretrain"),
)
HEAVY = {"torch", "torchvision", "open_clip", "timm", "matplotlib", "sklearn", "scipy"}


def imported(arguments):
    """Return the exit code of python with these arguments, what it printed and warned, and what it imported."""
    process = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True)
    lines = process.stderr.splitlines()
    names = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return process.returncode, process.stdout, [line for line in lines if not line.startswith("import time:")], names


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy_and_says_how_to_start_and_what_exit_codes_mean(command):
    code, output, errors, names = imported(["-m", command, "--help"])
    assert (code, errors) == (0, []) and names & HEAVY == set()
    assert "Exit code: 0 " in output and (f"python -m {command}" in output or f"python {command}.py" in output)
    assert max(map(len, output.splitlines())) <= 120


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_in_the_arguments_is_one_line_and_imports_nothing_heavy(command):
    code, _, errors, names = imported(["-m", command, "--no-such-flag"])
    assert code == 2 and len(errors) == 1 and errors[0].startswith("error: ") and names & HEAVY == set()


def test_the_library_waits_with_open_clip():
    code, _, errors, names = imported(["-c", "import sotglp"])
    assert (code, errors) == (0, []) and names & (HEAVY | {"dassl", "trainers"}) == {"torch"}


def test_a_command_ends_quietly_when_nobody_reads_its_output(python):
    line = f"{python} -m scripts train --list | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.splitlines()[-1] in ("141", "0")  # 0: all of it fitted into the pipe

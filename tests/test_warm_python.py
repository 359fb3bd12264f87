"""The stand-in for python does what python does."""

import os
import signal
import subprocess
import sys

import pytest

SHOW = "import os, sys; print(sys.argv, sys.path[0], os.getcwd(), os.environ['MARK'], __name__, 'dassl' in sys.modules)"
COMMANDS = {
    "code": ["-c", f"{SHOW}; sys.exit(3)", "-m", "word"],
    "input": ["-", "a word"],
    "module": ["-m", "package.shows", "--flag"],
    "script": ["package/shows.py", "--flag"],
    "flags": ["-X", "dev", "-c", SHOW],
    "message": ["-c", "import atexit, sys; atexit.register(print, 'the last'); sys.exit('wrong')"],
    "closed": ["-c", "import sys; print('said'); sys.stdout = open('log', 'w'); sys.stdout.close()"],
    "thread": ["-c", "import threading; threading.Timer(0.1, print, ['later']).start()"],
    "error": ["-c", "import no_such_module"],
    "signal": ["-c", "import os; os.abort()"],
    "path": ["-c", "import elsewhere; print(elsewhere.__file__)"],
    "child": ["-c", "import subprocess, sys; print(subprocess.call([sys.executable, '-c', 'input(); 1 / 0']))"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_it_runs_a_command_line_as_python_does(words, python, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "shows.py").write_text(SHOW)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "elsewhere.py").touch()
    environment = {**os.environ, "MARK": "mine", "PYTHONPATH": str(tmp_path / "other")}
    ours, expected = (
        subprocess.run([program, *words], cwd=tmp_path, env=environment, input=SHOW, text=True, capture_output=True)
        for program in (python, sys.executable)
    )
    assert (ours.returncode, ours.stdout) == (expected.returncode, expected.stdout)
    assert ours.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]
    assert expected.stdout or expected.returncode in (1, -signal.SIGABRT)


@pytest.mark.skipif(sys.platform != "linux", reason="it is python itself")
def test_libraries_are_imported_and_nothing_of_the_project(python):
    code = "import sys; print('torch' in sys.modules, *sys.modules.keys() & sys.argv)"
    words = ["dassl", "sotglp", "trainers", "datasets", "scripts", "train", "clip", "conftest"]
    assert subprocess.check_output([python, "-c", code, *words], text=True) == "True\n"


def test_a_pipe_ends_with_the_program_that_writes_to_it(python):
    """And another program may go on that it has started."""
    reading, writing = os.pipe()
    code = f"import os; os.write({writing}, b'written'); os.close({writing}); input()"
    with subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, pass_fds=[writing]) as process:
        os.close(writing)
        with open(reading, "rb") as file:
            assert file.read() == b"written" and process.poll() is None
        process.communicate(b"\n")
    assert process.returncode == 0

"""Runs that are killed or cannot write. Started again, they end like runs that were never stopped."""

import contextlib
import errno
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import exit_code
from small_runs import CONTEXT, SOTGLP, TINY, assert_same, outcome, run, wait_for_training

from dassl.engine import TrainerX
from dassl.utils import Interrupted, UserError, files, interrupt, load_checkpoint, signals_interrupt, uninterrupted
from train import main

# Saved at each step, so that many kills meet a save; validated after each epoch.
OFTEN = ["TRAIN.CHECKPOINT_MINUTES", "1e-9", "TEST.FINAL_MODEL", "best_val"]
RUNS = {
    "no workers": [*TINY, *OFTEN, "DATALOADER.NUM_WORKERS", "0"],
    "workers": [*TINY, *OFTEN, "DATALOADER.NUM_WORKERS", "2"],
    "on signals only": [*TINY, "DATALOADER.NUM_WORKERS", "0"],
    "SOT-GLP": [*SOTGLP, *OFTEN, "DATALOADER.NUM_WORKERS", "0"],
}


@pytest.fixture
def start(squares_root, tmp_path, monkeypatch):
    """Function (kind of run, folder) -> its process."""
    monkeypatch.chdir(Path(__file__).parent.parent)

    def start(kind, folder):
        first, *pairs = RUNS[kind], "DATASET.ROOT", str(squares_root), "OUTPUT_DIR", str(folder)
        process = CONTEXT.Process(target=run, args=([*first, *pairs], tmp_path / "log.txt"))
        process.start()
        return process

    yield start
    for process in multiprocessing.active_children():
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("kind, kills", [("no workers", 10), ("workers", 5), ("on signals only", 10), ("SOT-GLP", 5)])
def test_killed_runs_end_like_unbroken_ones(kind, kills, start, tmp_path):
    """30 random kills in all, at most three in a row, while runs step, save, load and evaluate."""
    draw, log = random.Random(kind), tmp_path / "log.txt"
    process = start(kind, tmp_path / "whole")
    wait_for_training(process, tmp_path / "whole", 0)
    begun = time.monotonic()
    assert exit_code(process) == 0, log.read_text()[-3000:]
    seconds, whole = time.monotonic() - begun, outcome(tmp_path / "whole")
    done = 0
    while done < kills:
        folder = tmp_path / f"killed after {done}"
        for number in range(4):
            process = start(kind, folder)
            if number < 3 and done < kills:
                wait_for_training(process, folder, len(list(folder.glob("tensorboard/*"))))
                # Any moment of a run as fast as the fastest so far; a kill after its end does not count.
                begun = time.monotonic()
                process.join(draw.uniform(0, seconds / (1.5 + number)))
                what = draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, what)
            code = exit_code(process)
            if code == 0:
                if number == 0:
                    seconds = min(seconds, time.monotonic() - begun)
                break
            assert code in (-signal.SIGKILL, 128 + what), log.read_text()[-3000:]
            done += 1
        assert code == 0
        assert_same(outcome(folder), whole)


def break_write(monkeypatch, number, how):
    """Let the write with this number fail once; return the list of all writes."""
    written = []

    def failing(function, code):
        def call(*arguments, **options):
            written.append(arguments[0])
            if len(written) == number:
                raise OSError(code, os.strerror(code))
            return function(*arguments, **options)

        return call

    if how == "full":  # what is written reaches the disk at the latest when it is flushed
        monkeypatch.setattr(files.os, "fsync", failing(os.fsync, errno.ENOSPC))
    else:
        monkeypatch.setattr(files, "open", failing(open, errno.EACCES), raising=False)
    return written


WRITING = [*TINY, "DATALOADER.NUM_WORKERS", "0", "TEST.COMPUTE_CMAT", "True", "TEST.FINAL_MODEL", "best_val"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "forbidden"])
def test_a_write_that_fails_costs_nothing(squares_root, tmp_path, monkeypatch, capsys, how):
    """Each write of a run fails in turn: one line of error, no torn file, and the same command finishes the run."""
    arguments = [*WRITING, "DATASET.ROOT", str(squares_root), "TRAIN.CHECKPOINT_FREQ", "1", "OUTPUT_DIR"]
    with monkeypatch.context() as patch:
        written = break_write(patch, None, how)
        assert main([*arguments, str(tmp_path / "whole")]) == 0
    whole = outcome(tmp_path / "whole")
    assert len(written) > 15  # config, checkpoints and their names, matrices, results
    capsys.readouterr()
    for number in range(1, len(written) + 1):
        run = tmp_path / f"{how}{number}"
        with monkeypatch.context() as patch:
            break_write(patch, number, how)
            code, err = main([*arguments, str(run)]), capsys.readouterr().err
        assert code == 2 and err.count("\n") == 1, written[number - 1]
        assert ("No space left on device" if how == "full" else "Permission denied") in err
        assert not list(run.rglob("*.tmp")) and not (run / "lock").exists()
        for path in run.glob("*/model*"):
            load_checkpoint(str(path))
        assert main([*arguments, str(run)]) == 0
        assert_same(outcome(run), whole)
        shutil.rmtree(run)


def test_stopped_between_the_best_model_and_the_last(squares_root, tmp_path, monkeypatch):
    """A run goes on from its best model, which does not replace the last one."""
    arguments = [*WRITING, "DATASET.ROOT", str(squares_root), "OUTPUT_DIR"]
    test, save = TrainerX.test, TrainerX.save_model
    monkeypatch.setattr(TrainerX, "test", lambda self, split=None: test(self, split) + 1000 * self.epoch)
    assert main([*arguments, str(tmp_path / "whole")]) == 0

    def stop(self, epoch, directory, **more):
        if epoch + 1 == self.max_epoch and not more:
            raise Interrupted(signal.SIGTERM)
        save(self, epoch, directory, **more)

    with monkeypatch.context() as patch:
        patch.setattr(TrainerX, "save_model", stop)
        assert main([*arguments, str(tmp_path / "run")]) == 143
    assert (tmp_path / "run" / "linear" / "model-best.pth.tar").exists()
    assert main([*arguments, str(tmp_path / "run")]) == 0
    assert_same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


@pytest.mark.slow
def test_a_cut_file_is_written_again_or_reported(squares_root, tmp_path, capsys):
    arguments = [*WRITING, "DATASET.ROOT", str(squares_root), "TRAIN.CHECKPOINT_FREQ", "1", "OUTPUT_DIR"]
    whole = tmp_path / "whole"
    assert main([*arguments, str(whole)]) == 0
    codes = {}
    for path in [path for path in whole.rglob("*") if path.is_file()]:
        run = tmp_path / "cut"
        shutil.copytree(whole, run)
        cut = run / path.relative_to(whole)
        os.truncate(cut, path.stat().st_size // 2)
        capsys.readouterr()
        codes[cut.name] = main([*arguments, str(run)])
        if codes[cut.name] == 0:
            assert_same(outcome(run), outcome(whole))
        else:
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and str(cut) in err
        shutil.rmtree(run)
    assert {name for name, code in codes.items() if code} <= {"checkpoint", "config.yaml", "model-best.pth.tar"}


def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(squares_root, tmp_path, capsys):
    arguments = [*TINY, "DATASET.ROOT", str(squares_root), "DATALOADER.NUM_WORKERS", "0"]
    arguments += ["TRAIN.CHECKPOINT_FREQ", "1", "OUTPUT_DIR", str(tmp_path / "run")]
    assert main(arguments) == 0
    whole, draw = outcome(tmp_path / "run"), random.Random(0)
    path = tmp_path / "run" / "linear" / "model.pth.tar-3"
    content = path.read_bytes()

    def flipped():
        at, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]

    damaged = [flipped() for _ in range(200)] + [content[: draw.randrange(len(content))] for _ in range(30)]
    found = 0
    for some in damaged:
        path.write_bytes(some)
        try:
            checkpoint = load_checkpoint(str(path))
        except UserError:
            found += 1
        else:  # the bit is padding, or a field that zip files hold twice
            assert_same(checkpoint, whole[1][0])
    assert found > 100
    path.write_bytes(content[:-1])
    capsys.readouterr()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"cannot read checkpoint {path}" in out and "trying the one before it" in out
    assert "2 epochs finished" in out
    assert_same(outcome(tmp_path / "run"), whole)
    for name in ("model.pth.tar-3", "model.pth.tar-2"):
        (path.parent / name).write_bytes(b"")
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "model.pth.tar-3" in err and "to start anew" in err


@pytest.mark.slow
def test_a_second_run_is_kept_out_of_the_folder(start, tmp_path):
    """It is refused while the first one lives, and goes on when the first one is dead."""
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    first = start("workers", folder)
    wait_for_training(first, folder, 0)
    os.kill(first.pid, signal.SIGSTOP)  # so that it lives until it is killed, however slow the second one starts
    assert exit_code(start("workers", folder)) == 2
    assert f"{folder} belongs to a run that is still going (process {first.pid} on " in log.read_text()
    first.kill()
    exit_code(first)
    assert exit_code(start("workers", folder)) == 0
    assert not (folder / "lock").exists()


@pytest.mark.slow
def test_a_second_signal_ends_at_once(start, tmp_path):
    """Within half a second it counts as the first one: a terminal sends it, and a script passes it on."""
    process = CONTEXT.Process(target=signal_three_times, args=(tmp_path / "signals",))
    process.start()
    assert exit_code(process) == 143
    assert (tmp_path / "signals").read_text() == "0.0 0.1 1.1 "


def signal_three_times(log):
    """Signals to this process at three times of a clock that stands still between them."""
    with log.open("w", buffering=1) as file, signals_interrupt(), uninterrupted():
        for now in (0.0, 0.1, 1.1):
            interrupt.time = SimpleNamespace(monotonic=lambda now=now: now)
            print(now, end=" ", file=file, flush=True)
            signal.raise_signal(signal.SIGTERM)


def test_every_write_replaces_the_whole_file():
    """All files that are read again; other code that opens a file to write is listed, with the reason."""
    allowed = {
        "dassl/utils/files.py": "it is what replaces files",
        "dassl/utils/logger.py": "a log grows line by line",
        "sotglp/shards.py": "the library has no toolbox; it is what replaces files there",
        "sotglp/features.py": "a lock without content",
        "clip/clip.py": "stands alone; replaced when it is whole",
        "datasets/fashion_mnist.py": "in a temporary folder, renamed when it is whole",
        "datasets/check.py": "nowhere",
        "dassl/utils/distributed.py": "nowhere",
    }
    writing = re.compile(r"""open\([^)\n]*["'][wax]b?\+?["']|\.write_(text|bytes)\(|torch\.save\(|savefig\((?!file)""")
    for folder in ("dassl", "trainers", "datasets", "sotglp", "clip", "scripts"):
        for path in Path(folder).rglob("*.py"):
            if path.as_posix() not in allowed and "embedded" not in path.parts:
                lines = [line for line in path.read_text().splitlines() if writing.search(line)]
                assert all("replacing(" in line or "buffer" in line for line in lines), (path, lines)

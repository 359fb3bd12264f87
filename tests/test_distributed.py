"""Two processes train to the same result as one (gloo, on the CPU)."""

import json
import os
import random
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import complete, exit_code, wait_for
from small_runs import CONTEXT, SOTGLP, TINY, outcome, run

from dassl.utils import load_checkpoint
from sotglp import parallel
from sotglp.shards import Shards

COMMON = ["DATALOADER.NUM_WORKERS", "0", "DATALOADER.TEST.BATCH_SIZE", "7", "TEST.FINAL_MODEL", "best_val"]
TRAINERS = {"SOTGLP": SOTGLP}  # batches of 9 images, of 4 classes
for name in ("MaPLe", "ProGrad", "CLIPLoRA", "CoCoOp", "TipAdapterF", "PLOTPP"):
    TRAINERS[name] = [word.replace("SOTGLP", name) for word in SOTGLP[:-2]]
    TRAINERS[name] += ["TRAINER.MAPLE.PROMPT_DEPTH", "2", "TRAINER.PROGRAD.N_CTX", "4", "TRAINER.COCOOP.N_CTX", "4"]


def run_one_of_two(rank, port, arguments, log):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    run(arguments, log)


@pytest.fixture
def start(squares_root, tmp_path, monkeypatch):
    """Function (trainer, folder, number of processes) -> the processes."""
    monkeypatch.chdir(Path(__file__).parent.parent)
    started = []

    def start(trainer, folder, n_processes):
        arguments = [*TRAINERS[trainer], *COMMON, "DATASET.ROOT", str(squares_root), "OUTPUT_DIR", str(folder)]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        made = [
            CONTEXT.Process(target=run_one_of_two, args=(rank, port, arguments, tmp_path / f"log{rank}.txt"))
            if n_processes == 2
            else CONTEXT.Process(target=run, args=(arguments, tmp_path / "log.txt"))
            for rank in range(n_processes)
        ]
        for process in made:
            process.start()
        started.extend(made)
        return made

    yield start
    for process in started:
        process.kill()


def learned(folder):
    """{name: tensor} of the last checkpoint of every model of a run."""
    states = {}
    for path in folder.glob("*/checkpoint"):
        state = load_checkpoint(str(path.parent / path.read_text().split()[0]))["state_dict"]
        states |= {f"{path.parent.name}.{key}": value for key, value in state.items()}
    return states


def assert_close(ours, expected):
    assert ours.keys() == expected.keys() and ours
    for key, value in expected.items():
        value = value.float()
        difference = (ours[key].float() - value).abs().max()
        assert difference <= 1e-5 * value.abs().max(), (key, difference, value.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_processes_learn_what_one_learns(start, tmp_path, trainer):
    alone, together = tmp_path / "alone", tmp_path / "together"
    codes = [exit_code(process) for process in start(trainer, alone, 1)]
    assert codes == [0], (tmp_path / "log.txt").read_text()[-2000:]
    codes = [exit_code(process) for process in start(trainer, together, 2)]
    assert codes == [0, 0], [(tmp_path / f"log{rank}.txt").read_text()[-2000:] for rank in (0, 1)]
    assert_close(learned(together), learned(alone))
    metrics = [json.loads((folder / "results.json").read_text())["metrics"] for folder in (together, alone)]
    temperatures = [of_run.pop("temperature") for of_run in metrics]  # a sum over images, unlike the others
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-4) and metrics[0] == metrics[1]
    # The first one alone writes, and every image is counted once.
    assert not (tmp_path / "log1.txt").read_text() and "* total: 24" in (together / "log.txt").read_text()
    assert len(list((together / "tensorboard").iterdir())) == len(list(together.glob("log.txt*"))) == 1


def steps_of(folder):
    """How many steps all runs in a folder have logged."""
    return sum(path.read_text().count("batch [") for path in folder.glob("log.txt*"))


@pytest.mark.slow
def test_two_killed_processes_go_on(start, tmp_path):
    draw = random.Random(0)
    TRAINERS["often"] = [*SOTGLP, "TRAIN.CHECKPOINT_MINUTES", "1e-9", "TRAIN.PRINT_FREQ", "1", "OPTIM.MAX_EPOCH", "4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert [exit_code(process) for process in start("often", whole, 2)] == [0, 0]
    for _ in range(2):
        steps = steps_of(killed) + draw.randint(1, 3)  # of the 16
        processes = start("often", killed, 2)
        wait_for(lambda: steps_of(killed) >= steps, processes[0])  # noqa: B023 (used at once)
        for process in processes:
            process.kill()
        assert -signal.SIGKILL in [exit_code(process) for process in processes]
    assert [exit_code(process) for process in start("often", killed, 2)] == [0, 0]
    for ours, expected in zip(outcome(killed)[1], outcome(whole)[1], strict=True):
        for key, value in expected["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value)
    assert outcome(killed)[0] == outcome(whole)[0]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_stops_both_after_the_same_step(start, tmp_path, rank):
    TRAINERS["seldom"] = [*SOTGLP, "TRAIN.CHECKPOINT_MINUTES", "0", "OPTIM.MAX_EPOCH", "10", "TEST.NO_TEST", "True"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert [exit_code(process) for process in start("seldom", whole, 2)] == [0, 0]
    processes = start("seldom", stopped, 2)
    log = stopped / "log.txt"
    wait_for(lambda: log.exists() and "epoch [1/10]" in log.read_text(), processes[0])
    os.kill(processes[rank].pid, signal.SIGTERM)
    assert [exit_code(process) for process in processes] == [128 + signal.SIGTERM] * 2
    assert list(stopped.glob("*/model.pth.tar*")) and not (stopped / "results.json").exists()
    assert [exit_code(process) for process in start("seldom", stopped, 2)] == [0, 0]
    assert "Resumed from" in (tmp_path / "log0.txt").read_text()
    for ours, expected in zip(outcome(stopped)[1], outcome(whole)[1], strict=True):
        for key, value in expected["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value)


@pytest.mark.slow
def test_two_processes_keep_the_features_that_one_keeps(start, tmp_path):
    files = []
    for n_processes in (1, 2):
        TRAINERS["kept"] = [*SOTGLP, "INPUT.FEATURE_CACHE", str(tmp_path / f"features{n_processes}")]
        codes = [exit_code(process) for process in start("kept", tmp_path / f"run{n_processes}", n_processes)]
        assert codes == [0] * n_processes, (tmp_path / "log0.txt").read_text()[-2000:]
        folder = tmp_path / f"features{n_processes}"
        read = {}
        for index in folder.rglob("index.json"):
            shards = Shards(index.parent)
            assert shards.count == n_processes, "each process has one to write"
            places = np.array([(i, row) for i in range(shards.count) for row in range(len(shards.facts(i)[0]))])
            for stream in index.parent.glob("*/"):
                read[stream.relative_to(folder)] = shards.take(stream.name, places)
        files.append(read)
        assert not list(folder.rglob("*.partial"))
    alone, together = files
    assert alone.keys() == together.keys() and len(alone) >= 2
    for name, features in alone.items():
        torch.testing.assert_close(together[name], features, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_processes_go_on_together_where_features_cannot_be_kept(start, tmp_path):
    (tmp_path / "file").write_text("")
    TRAINERS["not kept"] = [*SOTGLP, "INPUT.FEATURE_CACHE", str(tmp_path / "file" / "features")]
    assert [exit_code(process) for process in start("not kept", tmp_path / "run", 2)] == [0, 0]
    assert "features are not kept in" in (tmp_path / "log0.txt").read_text()


@pytest.mark.slow
def test_torchrun_starts_it(squares_root, tmp_path, python):
    arguments = [*TRAINERS["SOTGLP"], *COMMON, "DATASET.ROOT", str(squares_root), "OPTIM.MAX_EPOCH", "1"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = "import sys; sys.path[:0] = ['tests', '.']; import conftest, train; sys.exit(train.main())"
    (tmp_path / "with_squares.py").write_text(program)
    torchrun = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(tmp_path / "with_squares.py"), *arguments, "OUTPUT_DIR", str(tmp_path / "run")]
    ended = complete(command, env=settings)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.slow
def test_what_trains_alone_is_refused(start, tmp_path):
    TRAINERS["Tiny"] = TINY
    assert [exit_code(process) for process in start("Tiny", tmp_path / "run", 2)] == [2, 2]
    assert "error: Tiny trains in one process, not in 2" in (tmp_path / "log0.txt").read_text()


def test_shares_cover_everything_once(monkeypatch):
    for n in range(12):
        for size in range(1, 6):
            monkeypatch.setattr(parallel, "size", lambda size=size: size)
            shares = []
            for rank in range(size):
                monkeypatch.setattr(parallel.distributed, "get_rank", lambda rank=rank: rank)
                shares += range(*parallel.share(n))
            assert shares == list(range(n))

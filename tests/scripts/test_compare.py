"""Comparisons: which runs they make, which mistakes they refuse, and how they stop and go on."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import PATIENCE, exit_code, finish, living, wait_for
from written_runs import write_runs

import train
from dassl.utils import owned
from scripts import compare, execution, plots, processes, run, transfer
from scripts.groups import read_groups
from scripts.methods import CONFIGS, read_methods
from scripts.run import make_runs

QUICK = ["OPTIM.MAX_EPOCH", "1", "TEST.SPLIT", "val"]
FEW = ["--method", "zero-shot CLIP", "--method", "CoOp, shared context", "fashion_mnist", "1", *QUICK]


def test_runs_of_all_methods_data_sets_shots_and_seeds(environment, tmp_path):
    runs, out, args = compare.parse(["fashion_mnist,dtd", "1,16", "OPTIM.LR", "0.1"])
    methods = [method for method in read_methods().values() if method.core]
    trained = sum(method.trained for method in methods)
    assert len(runs) == len({run.folder for run in runs}) == 2 * 2 * (2 * trained + len(methods) - trained)
    assert all(run.seed == 1 for run in runs if not run.method.trained)
    assert out == tmp_path / "compare_fashion_mnist+dtd_1-16shots" and not args.published


def test_all_methods_and_the_core_ones(environment):
    chosen = {
        words: {run.method.name for run in compare.parse([*words, "emoji", "2"])[0]}
        for words in ((), ("--method", "all"))
    }
    methods = read_methods()
    assert chosen["--method", "all"] == set(methods)
    assert chosen[()] == {name for name, method in methods.items() if method.core} < set(methods)


def test_the_command_of_a_run(environment, tmp_path):
    method = read_methods()["CoOp, class-specific contexts"]
    run = make_runs([method], ["imagenet"], ["4"], ["--backbone", "ViT-B/32", "OPTIM.LR", "0.1"])[1]
    assert run.folder == tmp_path / "imagenet/CoOp/vit_b16_4shots/class-specific-contexts/seed2"
    words = " ".join(run.arguments).replace(str(tmp_path), "OUTPUT").replace(str(CONFIGS), "configs")
    assert words == (
        "--trainer CoOp --root data --output-dir OUTPUT/imagenet/CoOp/vit_b16_4shots/class-specific-contexts/seed2 "
        "--seed 2 --dataset-config-file configs/datasets/imagenet.yaml --config-file configs/backbones/vit_b16.yaml "
        "--config-file configs/trainers/CoOp/imagenet.yaml "
        "--backbone ViT-B/32 OPTIM.LR 0.1 TRAINER.COOP.CSC True PROTOCOL published DATASET.NUM_SHOTS 4 "
        "INPUT.FEATURE_CACHE OUTPUT/features INPUT.FEATURE_STREAMS ()"
    )


def test_a_yaml_file_means_the_same_as_arguments(environment, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        'datasets: [emoji]\nshots: [1, 2]\nseeds: [7]\nmethods: ["CoOp, shared context"]\noptions: [OPTIM.LR 0.1]\n'
    )
    runs, out, _ = compare.parse([str(plan), "OPTIM.MAX_EPOCH", "3"])
    assert [(run.dataset, run.shots, run.seed, run.method.name) for run in runs] == [
        ("emoji", 1, 7, "CoOp, shared context"),
        ("emoji", 2, 7, "CoOp, shared context"),
    ]
    assert runs[0].options == ("OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "3")
    assert out == tmp_path / "compare_plan"


def test_another_list_of_methods(environment, tmp_path):
    (tmp_path / "mine.yaml").write_text("K = 5: {trainer: SOTGLP, variant: k5, options: [TRAINER.SOTGLP.TOPK 5]}")
    runs, out, _ = compare.parse(["--methods", str(tmp_path / "mine.yaml"), "emoji", "2"])
    assert {run.method.name for run in runs} == {"K = 5"} and out == tmp_path / "emoji" / "mine_small_2shots"
    assert " TRAINER.SOTGLP.TOPK 5 PROTOCOL" in " ".join(runs[0].arguments)


@pytest.mark.parametrize(
    "arguments, settings, message",
    [
        ([], {}, "give DATASETS and SHOTS"),
        (["fashion_mnist"], {}, "give DATASETS and SHOTS"),
        (["fashion_mnist,mnist", "16"], {}, "unknown data set mnist: take one of: caltech101; "),
        (["fashion_mnist", "1,0"], {}, "shots (images per class, or all) must be whole numbers from 1, not 0"),
        (["fashion_mnist", "many"], {}, "not many"),
        (["fashion_mnist", "16,"], {}, "not nothing"),
        (["--method", "CoOp", "fashion_mnist", "16"], {}, "unknown method CoOp: take one of: zero-shot CLIP; "),
        (["fashion_mnist", "16", "--published"], {}, "--published must stand before the data sets"),
        (["fashion_mnist", "16"], {"SEEDS": "1 two"}, "seeds (SEEDS) must be whole numbers from 0, not two"),
        (["fashion_mnist", "16"], {"SEEDS": " "}, "there is nothing to run"),
        (["fashion_mnist", "16"], {"BACKBONE": "big"}, "unknown BACKBONE big: take one of: dfn_b16; "),
        (["fashion_mnist", "16"], {"JOBS": "0"}, "JOBS must be whole numbers from 1, not 0"),
        (["fashion_mnist", "16", "OPTIM.EPOCHS", "3"], {}, "OPTIM.EPOCHS"),
        (["none.yaml"], {}, "cannot read none.yaml"),
        (["--protocol", "loose", "emoji", "1"], {}, "invalid choice: 'loose'"),
        (["--protocol", "strict", "emoji", "1", "TEST.SPLIT", "val"], {}, "TEST.SPLIT val needs validation images"),
        (["--protocol", "strict", "emoji", "1", "TEST.FINAL_MODEL", "best_val"], {}, "TEST.FINAL_MODEL best_val needs"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    environment, tmp_path, monkeypatch, capsys, arguments, settings, message
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert compare.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1 and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content, message",
    [
        ("datasets: [emoji]", "lacks shots"),
        ("datasets: emoji\nshots: [1]", "datasets must be a list"),
        ("dataset: [emoji]", "dataset: take one of: datasets; shots; "),
        ("- emoji", "must hold KEY: VALUE"),
        ("a: [", "cannot read"),
    ],
)
def test_mistakes_in_a_yaml_file(environment, tmp_path, capsys, content, message):
    (tmp_path / "plan.yaml").write_text(content)
    assert compare.main([str(tmp_path / "plan.yaml")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "entry",
    ["{trainer: CoOp}", "{trainer: CoOp, variant: a, colour: red}", "{trainer: CoOp, variant: a, options: [A]}"],
)
def test_mistakes_in_the_list_of_methods(tmp_path, entry):
    (tmp_path / "methods.yaml").write_text(f"mine: {entry}")
    with pytest.raises(ValueError, match="methods.yaml: mine: "):
        read_methods(tmp_path / "methods.yaml")


class Script(run.Command):
    """A run that is a line of shell."""

    program = "shell"

    def __init__(self, line, folder):
        self.arguments, self.folder = [line], folder


def test_a_failed_run_stops_no_other(tmp_path, capfd):
    bad, good = (
        Script("echo warning >&2; echo error: broken >&2; exit 2", tmp_path / "1"),
        Script(f"echo odd >&2; touch {tmp_path}/good", tmp_path / "2"),
    )
    assert execution.execute([bad, good], 1, None) == {bad: (2, "broken")}
    assert (tmp_path / "good").exists()
    assert capfd.readouterr().err == "odd\n"


def test_jobs_run_side_by_side(tmp_path):
    """Each of two waits for the other to begin."""
    wait = f"touch {{0}}/{{1}}; timeout {PATIENCE} bash -c 'until [ -e {{0}}/{{2}} ]; do sleep 0.05; done'"
    pair = [Script(wait.format(tmp_path, *names), tmp_path) for names in ("ab", "ba")]
    assert execution.execute(pair, 2, None) == {}


def test_stop_kills_processes_that_ignore_an_interrupt(tmp_path):
    line = f"trap '' INT; touch {tmp_path}/deaf; sleep {2 * PATIENCE} & sleep {2 * PATIENCE}"
    process = Script(line, tmp_path).start(errors=tmp_path / "errors")
    wait_for((tmp_path / "deaf").exists)
    execution.stop([process], patience=0.2)
    wait_for(lambda: not living(str(process.pid), by="session"))


PROBE = """
import json, os, sys
from pathlib import Path

def main(argv):
    import torch
    facts = {"imported": sorted({"torch", "open_clip", "trainers"} & set(BEFORE)), "folder": os.getcwd(),
             "threads": torch.get_num_threads(), "cuda": torch.cuda.is_initialized(),
             "variable": os.environ.get("PROBE"), "argv": argv}
    Path(argv[0]).write_text(json.dumps(facts))
    print("odd", file=sys.stderr)
    return 3

BEFORE = list(sys.modules)
"""


@pytest.mark.parametrize("forks", [True, False])
def test_a_program_starts_with_the_state_of_its_command(forks, tmp_path, monkeypatch):
    """Folder and environment are those of now; the fork server has imported what a run needs, and has no GPU."""
    monkeypatch.setattr(processes, "FORKS", forks)
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROBE", "now")
    process = processes.start("probe", [str(tmp_path / "facts")], 1, tmp_path / "errors")
    assert exit_code(process) == 3
    assert json.loads((tmp_path / "facts").read_text()) == {
        "imported": ["open_clip", "torch", "trainers"] if forks else ["torch"],  # whose threads are set
        "folder": str(tmp_path),
        "threads": 1,
        "cuda": False,
        "variable": "now",
        "argv": [str(tmp_path / "facts")],
    }
    assert (tmp_path / "errors").read_text() == "odd\n"


def test_the_time_left_counts_epochs_of_runs_that_are_running(tmp_path, monkeypatch):
    """Of 4 runs one is finished and one is half done: 30 s for 1.5 runs, so 50 s for the other 2.5."""
    (tmp_path / "log.txt").write_text("epoch [4/8] batch [1/1] time 1.0 (1.0) loss 2.5 (2.6) acc 5.0 (5.0) lr 1e-3\n")
    assert str(execution.progress(tmp_path)) == "epoch 4/8, loss 2.5"
    display = execution.Display(4, 2)
    assert display.time_left([Script("", tmp_path / "new")]) == ""
    display.finished()
    monkeypatch.setattr(execution.time, "monotonic", lambda: display.start + 30)
    assert display.time_left([Script("", tmp_path)]) == ", about 50 s left"
    assert [execution.in_words(seconds) for seconds in (99, 700, 11100)] == ["99 s", "12 min", "3 h 5 min"]


def test_status_of_every_kind_of_run(environment, capsys):
    words = ["--method", "CoOp, shared context", "fashion_mnist", "1,2,4,8,16"]
    runs, *_ = compare.parse(["--status", *words])
    finished, running, failed, stopped, _ = (one.folder for one in runs if one.seed == 1)
    for folder in (finished, running, failed, stopped / "prompt_learner"):
        folder.mkdir(parents=True)
    (finished / "results.json").write_text("{}")
    (stopped / "prompt_learner" / "checkpoint").write_text("model.pth.tar-1")
    (stopped / "log.txt").write_text("epoch [1/9] batch [1/5] loss 9.5\nepoch [1/9] batch [5/5] loss 7.5\n")
    runs[4].fail(2, ["a warning", "error: no such file"])
    with owned(str(running)):
        assert compare.main(["--status", *words]) == 0
        output = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in output.splitlines() if ", seed 1 " in line]
    assert [line.split("seed 1 ")[1].split()[0] for line in lines] == [
        "finished",
        "running",
        "failed",
        "stopped",
        "not",
    ]
    assert f"process {os.getpid()} on" in lines[1] and "no such file" in lines[2] and "loss 7.5" in lines[3]
    assert output.splitlines()[-1] == "1 finished, 6 not started, 1 running, 1 failed, 1 stopped"
    assert not any(path.name == "lock" for path in running.iterdir())


def owners(folder):
    """The numbers of the processes that have written theirs into a lock of a run; it is empty before."""
    return [text.split()[1] for lock in folder.rglob("lock") if (text := lock.read_text())]


def rows(out):
    """table.csv without the seconds."""
    with (out / "table.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_stopped_comparison_leaves_no_process_and_is_continued(environment, tmp_path, monkeypatch, capsys):
    """Interrupted in its second run and started again, it makes the table of one that was not interrupted."""
    for name, value in {"DATA": str(tmp_path / "data"), "SEEDS": "1", "JOBS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OUTPUT", str(tmp_path / "stopped"))
    command = [sys.executable, "-m", "scripts.compare", *FEW]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "stopped" / "fashion_mnist"
    first = runs / "ZeroshotCLIP" / "small_1shots" / "one-template" / "seed1" / "results.json"
    second = runs / "CoOp" / "small_1shots" / "shared-context" / "seed1"
    wait_for(lambda: first.exists() and owners(second), process)
    (owner,) = owners(second)
    process.send_signal(signal.SIGINT)
    assert "interrupted: 1 of 2 runs are finished" in finish(process)[1]
    assert process.returncode == 130
    wait_for(lambda: not Path("/proc", owner).exists())

    before = first.stat().st_mtime_ns
    assert compare.main(FEW) == 0
    output = capsys.readouterr().out
    assert "2 runs, 1 of them finished before" in output and "[1/1] fashion_mnist, 1 shot: CoOp" in output
    assert first.stat().st_mtime_ns == before
    assert compare.main([*FEW, "OPTIM.LR", "0.5"]) == 2
    assert "finished with other settings (OPTIM.LR 0.2 -> 0.5)" in capsys.readouterr().err

    monkeypatch.setenv("OUTPUT", str(tmp_path / "straight"))
    monkeypatch.setenv("JOBS", "2")
    assert compare.main(FEW) == 0
    name = "compare_small_1shots"
    assert rows(runs / name) == rows(tmp_path / "straight" / "fashion_mnist" / name)
    assert [row["method"] for row in rows(runs / name)] == ["zero-shot CLIP", "CoOp, shared context"]


@pytest.mark.slow
def test_a_killed_comparison_takes_its_runs_along(tmp_path, request):
    """Otherwise the same command, started again, would write into the folder of a run that is still going."""
    code = (
        "import subprocess, sys; from scripts.methods import read_methods; from scripts.run import make_runs; "
        "make_runs([read_methods()['CoOp, shared context']], ['fashion_mnist'], [16], ['OPTIM.MAX_EPOCH', '100000'])"
        "[0].start().join()"
    )
    settings = {**os.environ, "OUTPUT": str(tmp_path), "DATA": str(tmp_path / "data")}
    process = subprocess.Popen([sys.executable, "-c", code], env=settings, stderr=subprocess.DEVNULL)
    request.addfinalizer(process.kill)
    wait_for(lambda: owners(tmp_path), process)
    (owner,) = owners(tmp_path)
    process.kill()
    process.wait()
    wait_for(lambda: not Path("/proc", owner).exists())  # the run itself would take hours


@pytest.mark.parametrize("word", ["all", "-1", "ALL"])
def test_all_images_as_shots(word, environment, tmp_path, monkeypatch):
    """In every script: run and its kin, compare, the ablation, OOD detection, and the three transfer protocols."""
    started = []
    monkeypatch.setattr(
        run.Run, "start", lambda self: started.append(self) or SimpleNamespace(join=lambda: None, exitcode=0)
    )
    assert run.main(["CoOp, shared context", "fashion_mnist", word, "OPTIM.LR", "0.1"]) == 0
    runs, out, _ = compare.parse(["--method", "CoOp, shared context", "fashion_mnist", f"1,{word}"])
    assert out.name == "compare_small_1-allshots"
    for each in (*started, *(one for one in runs if one.shots != 1)):
        assert each.shots == -1 and "small_allshots" in str(each.folder)
        assert " DATASET.NUM_SHOTS -1 " in f" {' '.join(each.arguments)} "
        assert "fashion_mnist, all images: CoOp" in str(each)
    plans, out, _ = transfer.parse(["base_to_new", "dtd", word])
    assert out.name == "base_to_new_dtd_allshots" and plans[0].runs[0].shots == -1
    plans, out, _ = transfer.parse(["cross_dataset", "imagenet", "dtd", word])
    assert out.name == "cross_dataset_imagenet_dtd_allshots"


def test_all_images_come_last_in_plots(tmp_path):
    for shots, accuracy in ((1, 40), (16, 60), (-1, 70)):
        write_runs(tmp_path / str(shots) / "shared-context", [accuracy, accuracy + 1], shots=shots)
    groups = read_groups([tmp_path / str(shots) / "shared-context" for shots in (-1, 1, 16)])
    plots.draw_all(groups, tmp_path / "out")
    assert (tmp_path / "out" / "shots.png").is_file()


def test_a_finished_run_with_other_settings_is_no_finished_run(environment, monkeypatch, capsys):
    words = ["CoOp, shared context", "fashion_mnist", "1", "OPTIM.MAX_EPOCH"]
    method = read_methods()["CoOp, shared context"]
    (finished,) = make_runs([method], ["fashion_mnist"], ["1"], ["OPTIM.MAX_EPOCH", "1"], [1])
    finished.folder.mkdir(parents=True)
    (finished.folder / "config.yaml").write_text(train.setup_cfg(train.parse_args(finished.arguments)).dump())
    (finished.folder / "results.json").write_text("{}")
    monkeypatch.setenv("SEEDS", "1")
    monkeypatch.setattr(run.Run, "start", lambda self: pytest.fail("it was started again"))
    assert run.main([*words, "1"]) == 0 and "Finished before" in capsys.readouterr().out
    assert run.main([*words, "3"]) == 2
    line = f"error: {finished.folder} is finished with other settings (OPTIM.MAX_EPOCH 1 -> 3): set another OUTPUT, or "
    assert capsys.readouterr().err.startswith(line)

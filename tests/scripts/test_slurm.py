"""Comparisons on a real Slurm cluster with one node."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from processes import finish, wait_for
from slurm_cluster import Cluster, lacks

from dassl.utils import UserError
from scripts import compare, slurm
from scripts.execution import progress
from scripts.methods import read_methods
from scripts.run import make_runs

WORDS = ["--method", "zero-shot CLIP", "--method", "CoOp, shared context", "fashion_mnist", "1"]
WORDS += ["OPTIM.MAX_EPOCH", "250", "TEST.SPLIT", "val"]


@pytest.fixture
def cluster(monkeypatch):
    if reason := lacks():
        pytest.skip(f"no Slurm: {reason}")
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as running:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, running.environment[name])
        yield running


def rows(folder):
    """The table of a comparison, without the seconds."""
    return [line.rpartition(",")[0] for line in (folder / "table.csv").read_text().splitlines()]


@pytest.mark.slow
def test_runs_outlive_their_time_limit_their_node_and_their_submitter(
    cluster, environment, tmp_path, monkeypatch, request
):
    """The table is that of an undisturbed comparison on this machine, and nothing finished is done again."""
    monkeypatch.setenv("SEEDS", "1")
    monkeypatch.setenv("OUTPUT", str(tmp_path / "straight"))
    assert compare.main(WORDS) == 0

    monkeypatch.setenv("OUTPUT", str(tmp_path / "slurm"))
    (tmp_path / "small.yaml").write_text("gpus: 0\ncpus: 1\n")
    command = [
        sys.executable,
        "-m",
        "scripts.compare",
        "--launcher",
        "slurm",
        "--cluster",
        str(tmp_path / "small.yaml"),
    ]
    runs = tmp_path / "slurm" / "fashion_mnist"
    first = runs / "ZeroshotCLIP" / "small_1shots" / "one-template" / "seed1" / "results.json"
    second = runs / "CoOp" / "small_1shots" / "shared-context" / "seed1"

    def submit():
        process = subprocess.Popen([*command, *WORDS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        request.addfinalizer(process.kill)
        return process

    def training():
        return first.exists() and progress(second).epoch > 0

    submitter = submit()
    wait_for(training, submitter)
    cluster.end_time()
    wait_for(lambda: cluster.states() == ["PENDING"], submitter)
    saved = list(second.glob("*/model.pth.tar-*"))
    assert saved and not (second / "results.json").exists()
    cluster.start_now()
    submitter.kill()
    finish(submitter)
    before = first.stat().st_mtime_ns

    submitter = submit()
    wait_for(lambda: cluster.states() == ["RUNNING"] and (second / "lock").exists(), submitter)
    cluster.kill_node()
    cluster.replace_node()
    wait_for(lambda: cluster.states() == ["PENDING"], submitter)
    cluster.start_now()
    output, errors = finish(submitter)
    assert submitter.returncode == 0, errors
    assert "Submitted" not in output and "2 runs, 1 of them finished before" in output
    assert first.stat().st_mtime_ns == before
    name = Path("fashion_mnist", "compare_small_1shots")
    assert rows(tmp_path / "slurm" / name) == rows(tmp_path / "straight" / name)


@pytest.mark.slow
def test_a_failed_run_is_listed_with_its_error(cluster, environment, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "1")
    (tmp_path / "small.yaml").write_text("gpus: 0\ncpus: 1\n")
    flags = ["--launcher", "slurm", "--cluster", str(tmp_path / "small.yaml"), "--method", "zero-shot CLIP"]
    words = ["fashion_mnist", "1", "MODEL.BACKBONE.NAME", str(tmp_path / "none.pt")]
    assert compare.main([*flags, *words]) == 2
    assert "none.pt" in capsys.readouterr().err
    assert compare.main(["--status", *flags, *words]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "failed" in listed and "none.pt" in listed and "train.failed.json" in listed and "1 failed" in listed


def test_a_job_takes_runs_that_share_their_test_images(environment):
    methods = list(read_methods().values())[:2]
    runs = make_runs(methods, ["fashion_mnist", "dtd"], ["1", "2"], seeds=[1, 2, 3])
    shares = slurm.shares_of(runs, 5)
    assert sorted(map(str, sum(shares, []))) == sorted(map(str, runs))
    assert all(len({(run.backbone, run.dataset) for run in share}) == 1 and len(share) <= 5 for share in shares)
    assert len(shares) == 4  # 8 runs of each data set


@pytest.mark.parametrize(
    "content, message",
    [("queue: a", "unknown key"), ("gpus: many", "gpus must be like 1"), ("hours: 0", "hours must be like 4")],
)
def test_mistakes_in_the_file_of_the_cluster(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        slurm.read_cluster(tmp_path / "mine.yaml")

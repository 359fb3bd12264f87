"""scripts.encode: runs read what it wrote, processes share the work, and a killed one goes on."""

import io
import os
import random
import shutil
import signal
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import train
from dassl.data import data_manager
from dassl.engine import build_trainer
from scripts import encode
from sotglp.shards import CLASS, Shards

KINDS = ["oak", "pine"]
SMALL = ["--backbone", "small"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Nine training and six test images of two classes, in folders."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 9), ("test", 6)):
        for i in range(count):
            path = folder / split / KINDS[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (20, 24, 3), np.uint8)).save(path)
    return folder


@pytest.fixture
def run_command(root, tmp_path, monkeypatch):
    """Function (words, environment) -> exit code, with features in tmp_path / "features"."""

    def run(*words, **environment):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            place = ["--root", str(root), "--features", str(tmp_path / "features"), *SMALL]
            return encode.main([*words, *place, "DATALOADER.TEST.BATCH_SIZE", "2"])

    return run


def trainer_on(root, tmp_path, *pairs):
    """A trainer of a run that reads the features in tmp_path."""
    arguments = [
        *("--root", str(root), "--output-dir", str(tmp_path / "run"), "--trainer", "SOTGLP", "--seed", "1"),
        *("--dataset-config-file", "configs/datasets/image_folder.yaml"),
        *("--config-file", "configs/backbones/small.yaml", "INPUT.FEATURE_CACHE", str(tmp_path / "features")),
    ]
    return build_trainer(train.setup_cfg(train.parse_args([*arguments, *pairs])))


def content(folder):
    """{path: bytes} of all files below a folder but the locks of runs."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_runs_read_what_it_wrote(run_command, root, tmp_path, monkeypatch, capsys):
    """The test's list as it is, and a few training images out of all of them."""
    assert run_command("image_folder", "--split", "test,train", "--streams", "vv", "--shards", "2") == 0
    said = capsys.readouterr().out
    assert "image_folder test: 2 of 2 shards, 0 of which are there" in said
    assert "image_folder train: 9 images, " in said and " GiB, 0:00:00 left" in said
    before = content(tmp_path / "features")

    trainer = trainer_on(root, tmp_path, "DATASET.NUM_SHOTS", "2")
    few = trainer.loader_of(trainer.dm.dataset.train_x)
    expected = [trainer.model.features(batch["img"]) for loader in (few, trainer.test_loader) for batch in loader]
    monkeypatch.setattr(data_manager, "read_image", None)  # from here on no image is read
    batches = [*trainer.encoded(few), *trainer.batches_to_evaluate("test")]
    assert len(few.dataset) == 4 and len(batches) == len(expected) == 2
    for batch, (class_tokens, patches) in zip(batches, expected, strict=True):
        torch.testing.assert_close(batch["features"], (class_tokens, patches), rtol=1e-5, atol=1e-5)
    assert content(tmp_path / "features") == before, "a run adds nothing"


def test_a_run_reads_no_list_of_another_run_and_no_unfinished_one(run_command, root, tmp_path):
    """A list of its own depends on it alone, so that results do not depend on what ran before."""
    assert run_command("image_folder", "--split", "train", "--shards", "3") == 0
    trainer = trainer_on(root, tmp_path, "DATASET.NUM_SHOTS", "2")
    trainer.model.local = None
    few = trainer.loader_of(trainer.dm.dataset.train_x[:3])
    (folder,) = (path.parent for path in (tmp_path / "features").rglob("index.json"))
    assert trainer.encoded(few).shards.folder == folder
    Shards(folder).path(CLASS, 1).with_suffix(".sha256").unlink()
    one, two = trainer.loader_of(few.dataset.data_source), trainer.loader_of(few.dataset.data_source[:2])
    folders = {trainer.encoded(loader).shards.folder for loader in (one, two)}
    assert len(folders) == 2 and folder not in folders


def test_processes_share_the_shards_and_write_the_bytes_of_one(run_command, tmp_path, capsys):
    words = ("image_folder", "--split", "train", "--streams", "value", "--shards", "4")
    assert run_command(*words) == 0
    alone = content(tmp_path / "features")
    shutil.rmtree(tmp_path / "features")
    assert run_command(*words, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1") == 0
    said = capsys.readouterr().out
    assert "image_folder train (process 1 of 2): 2 of 4 shards, 0 of which are there" in said
    assert "(process 1 of 2): 2 of 4 shards are in " in said
    task = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "2"}
    assert run_command(*words, **task) == 0
    assert "(process 0 of 2): 4 of 4 shards are in " in capsys.readouterr().out
    assert content(tmp_path / "features") == alone


def test_a_flipped_byte_is_named_and_encoded_again(run_command, tmp_path, capsys):
    assert run_command("image_folder", "--split", "train", "--shards", "3") == 0
    expected = content(tmp_path / "features")
    path = sorted((tmp_path / "features").rglob("00001-*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    capsys.readouterr()
    assert run_command("image_folder", "--split", "train") == 0
    said = capsys.readouterr().out
    assert f"{path} is damaged (its SHA-256 differs) and deleted: its images are encoded again" in said
    assert "3 of 3 shards, 2 of which are there" in said and content(tmp_path / "features") == expected


def write_tars(root, folder, **more):
    """Write the test images of folders into two tar files, with their labels, and further members."""
    paths = sorted((root / "test").rglob("*.png"))
    for number, part in enumerate((paths[:4], paths[4:])):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for path in part:
                members = {"png": path.read_bytes(), "cls": str(KINDS.index(path.parent.name)).encode(), "json": b"{}"}
                for suffix, data in {**members, **more}.items():
                    info = tarfile.TarInfo(f"{path.parent.name}/{path.stem}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return str(folder / "{0..1}.tar")


def features_in(folder):
    """{name of an image: (label, class token)} of the only list below a folder."""
    (index,) = folder.rglob("index.json")
    shards, found = Shards(index.parent), {}
    for number in range(shards.count):
        names, labels = shards.facts(number)
        rows = shards.tensors(CLASS, number)["features"]
        found |= {name: (label, row) for name, label, row in zip(names, labels, rows, strict=True)}
    return found


@pytest.mark.parametrize("workers", ["0", "2"])
def test_tar_files_give_the_features_of_the_folders(run_command, root, tmp_path, workers):
    pattern = write_tars(root, tmp_path)
    assert run_command(pattern, "DATALOADER.NUM_WORKERS", workers) == 0
    archived = features_in(tmp_path / "features")
    shutil.rmtree(tmp_path / "features")
    assert run_command("image_folder", "--shards", "2") == 0
    listed = {name.split("test/")[1]: row for name, row in features_in(tmp_path / "features").items()}
    assert [name.split(".tar/")[1] for name in archived] == sorted(listed)
    for name, (label, row) in archived.items():
        kind, _, file = name.split(".tar/")[1].partition("/")
        expected_label, expected = listed[f"{kind}/{file}"]
        assert label == expected_label == KINDS.index(kind)
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_damaged_images_in_a_tar_file(run_command, root, tmp_path, capsys):
    pattern = write_tars(root, tmp_path, png=b"\x89PNG none")
    assert run_command(pattern) == 2
    assert "/0.tar/oak/0.png: it is no image that Pillow knows" in capsys.readouterr().err
    assert run_command(pattern, "DATALOADER.ON_ERROR", "skip") == 2
    assert "none of the images of shard 0 can be read" in capsys.readouterr().err
    good = write_tars(root, tmp_path)
    path = tmp_path / "1.tar"
    path.write_bytes(path.read_bytes()[:700])
    assert run_command(good) == 2
    assert f"error: cannot read {path}: " in capsys.readouterr().err


def test_mistakes_are_one_line(run_command, tmp_path, capsys):
    for words, environment, message in [
        (["nothing"], {}, "nothing"),
        ([str(tmp_path / "{0..1}.tar")], {}, f"there is no file {tmp_path}/0.tar"),
        (["a.tar", "--shards", "2"], {}, "a tar file is a shard, and of no split: leave out --shards"),
        (["image_folder", "--split", "tset"], {}, "tset"),
        (["image_folder", "--shards", "0"], {}, "whole numbers from 1"),
        (["image_folder", "--streams", "vw"], {}, "'vw'"),
        (["image_folder", "--precision", "fp8"], {}, "must be one of fp32, amp, fp16, bf16, not 'fp8'"),
        (["image_folder", "INPUT.SIZE", "(32, 32)"], {}, "INPUT.SIZE is (32, 32)"),
        (
            ["image_folder"],
            {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"},
            "number the tasks of the array without gaps, such as --array=0-1",
        ),
    ]:
        assert run_command(*words, **environment) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1, error
    assert run_command("image_folder", "--shards", "2") == 0
    assert run_command("image_folder", "--shards", "3") == 2
    assert "has 2 shards: give --shards 2, or leave it out" in capsys.readouterr().err


def test_each_task_of_an_array_may_start_torchrun():
    places = [
        encode.place_in_job(
            {
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
            }
        )
        for task in (1, 2, 3)
        for rank in (0, 1)
    ]
    assert places == [(i, 6) for i in range(6)] and encode.place_in_job({}) == (0, 1)


@pytest.mark.slow
def test_killed_at_20_random_moments_it_ends_with_the_same_bytes(run_command, tmp_path):
    """Each process goes on where the one before it was killed. They are forks: importing torch takes seconds."""
    torch.set_num_threads(1)  # other threads do not live on in a fork
    words = ("image_folder", "--split", "train", "--streams", "vv", "--shards", "5")
    start = time.monotonic()
    assert run_command(*words) == 0
    seconds, expected = time.monotonic() - start, content(tmp_path / "features")
    generator, kills = random.Random(0), 0
    while kills < 20:
        shutil.rmtree(tmp_path / "features")
        code = None
        while code != 0:
            process = os.fork()
            if process == 0:
                os._exit(run_command(*words))
            time.sleep(generator.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            code = os.waitpid(process, 0)[1]
            kills += code == signal.SIGKILL
            assert code in (0, signal.SIGKILL)
        assert content(tmp_path / "features") == expected


def test_a_store_tells_its_weights_precision_and_pixels_apart(run_command, tmp_path):
    """By a folder for each, so that no run reads features that are not its own."""
    assert run_command("image_folder") == 0
    assert run_command("image_folder", "INPUT.INTERPOLATION", "nearest") == 0
    assert run_command("image_folder", "--precision", "bf16") == 0
    kept = {path.parent.parent: path for path in (tmp_path / "features").rglob("*.safetensors")}
    types = []
    for path in kept.values():
        with safe_open(path, "pt") as file:
            types.append(file.get_slice("features").get_dtype())
    assert len({path.parent for path in kept}) == 3 and sorted(types) == ["F16", "F32", "F32"]

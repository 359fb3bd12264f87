"""python -m datasets.check and python -m datasets.prepare."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torchvision
from miniatures import (
    CLASSES,
    make_cfg,
    our_readers,
    save,
    write_aircraft,
    write_annotations,
    write_imagenet,
    write_images,
    write_split,
    write_variant,
)

from dassl.data.datasets import build_dataset
from datasets import check, prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    """A folder of data sets: three complete, one without its split, one damaged."""
    for name in ("EuroSAT", "Food101", "OxfordPets"):
        truth = write_images(tmp_path, name)
        if name != "Food101":
            write_split(tmp_path, name, truth)
    (tmp_path / "oxford_pets/split_zhou_OxfordPets.json").write_text('{"train": [')
    write_aircraft(tmp_path)
    write_imagenet(tmp_path)
    save(tmp_path / "SUN/images/1.jpg")
    return tmp_path


def row_of(output, name):
    """A data set in the output: its row of the table, and its next steps."""
    lines = [line for line in output.splitlines() if re.match(rf"{name}:? ", line)]
    return " ".join(" ".join(lines).split()).replace(f" {name}: ", " ")


def test_check_reports_every_data_set(root, capsys):
    files = sorted(root.rglob("*"))
    assert check.main(["--root", str(root)]) == 1
    output = capsys.readouterr().out
    expected = {
        "EuroSAT": "found 15 6 9",
        "FGVCAircraft": "found 15 6 9",
        "ImageNet": "found 12 12 12",
        "SUN": "found 1",
        "Food101": "incomplete no file .*split_zhou_Food101.json: .*drive.google.com",
        "OxfordPets": "damaged .* is not valid JSON",
        "Caltech101": "missing python -m datasets.prepare Caltech101 --root .* downloads its images",
        "ImageNetA": "missing python -m datasets.prepare ImageNetA --root .* prints where to get it",
        "Emoji": "missing its reader lists its files",
        "Places": "missing put its images into .*Places/images: .*large_scale_ood",
    }
    for name, words in expected.items():
        assert re.match(f"{name} {words}", row_of(output, name)), row_of(output, name)
    assert sorted(root.rglob("*")) == files  # a check writes nothing


def test_check_of_named_data_sets_alone(root, capsys):
    assert check.main(["EuroSAT", "SUN", "--root", str(root)]) == 0
    assert "Food101" not in capsys.readouterr().out
    assert check.main(["Caltech101", "--root", str(root)]) == 1
    assert check.main(["Eurosat", "--root", str(root)]) == 2
    assert capsys.readouterr().err.startswith('error: unknown data set "Eurosat" (do you mean EuroSAT')


def test_a_deep_check_names_what_cannot_be_decoded(root, capsys):
    path = root / "eurosat/2750/Forest/image_0003.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    assert check.main(["EuroSAT", "--root", str(root)]) == 0
    capsys.readouterr()
    assert check.main(["EuroSAT", "FGVCAircraft", "--deep", "--root", str(root)]) == 1
    captured = capsys.readouterr()
    assert row_of(captured.out, "EuroSAT") == "EuroSAT found 15 6 9 1"
    assert row_of(captured.out, "FGVCAircraft") == "FGVCAircraft found 15 6 9 0"
    assert f"copy anew: cannot read image {path}" in captured.out and "30/30" in captured.err


def downloader(made):
    """Torchvision's class, as if it had downloaded: it copies `made` under its root."""

    def download(folder, download):
        assert download
        shutil.copytree(made, folder, dirs_exist_ok=True)

    return download


@pytest.mark.parametrize("name", prepare.DOWNLOADS)
def test_prepare_arranges_what_torchvision_downloads(name, tmp_path, monkeypatch, capsys):
    source, moves = prepare.DOWNLOADS[name]
    ours, theirs, root = tmp_path / "ours", tmp_path / "theirs", tmp_path / "data"
    if name == "FGVCAircraft":
        write_aircraft(ours)
    else:
        truth = write_images(ours, name)
        write_annotations(ours, name)
        (ours / "food-101/meta").mkdir(parents=True, exist_ok=True)
        (ours / "dtd/labels").mkdir(parents=True, exist_ok=True)
    for made, wanted in moves.items():
        (theirs / made).parent.mkdir(parents=True, exist_ok=True)
        (ours / wanted).rename(theirs / made)
    monkeypatch.setattr(torchvision.datasets, source, downloader(theirs))
    assert prepare.main([name, "--root", str(root)]) == 0
    if name != "FGVCAircraft":
        assert f"split_zhou_{name}.json: the split of CoOp's DATASETS.md" in capsys.readouterr().out
        write_split(root, name, truth)
    monkeypatch.delattr(torchvision.datasets, source)  # nothing is downloaded twice
    assert prepare.main([name, "--root", str(root)]) == 0
    assert f"{name}: complete" in capsys.readouterr().out
    dataset = build_dataset(make_cfg(name, root))
    assert dataset.num_classes == len(CLASSES.get(name, "abc"))
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_prepare_leaves_what_is_there(tmp_path, monkeypatch):
    for made in ("images", "annotations"):
        save(tmp_path / "theirs/oxford-iiit-pet" / made / "1.jpg")
    kept = tmp_path / "data/oxford_pets/images/mine.jpg"
    save(kept)
    monkeypatch.setattr(torchvision.datasets, "OxfordIIITPet", downloader(tmp_path / "theirs"))
    assert prepare.main(["OxfordPets", "--root", str(tmp_path / "data")]) == 0
    assert list(kept.parent.iterdir()) == [kept] and (tmp_path / "data/oxford_pets/annotations/1.jpg").exists()


def test_size_and_time_of_a_download_are_said_before_it_is_read(tmp_path, capsys):
    (tmp_path / "images.tar").write_bytes(b"x" * 2_000_000)
    with prepare.announced():
        with urllib.request.urlopen((tmp_path / "images.tar").as_uri()) as response:
            assert capsys.readouterr().out == "images.tar: 2 MB, 1 min at 50 Mbit/s\n"
            assert len(response.read()) == 2_000_000
    assert urllib.request.urlopen.__module__ == "urllib.request"


@pytest.mark.parametrize("error", [OSError("name or service\nnot known"), RuntimeError("md5"), ImportError("no gdown")])
def test_a_failed_download_is_one_line(error, tmp_path, monkeypatch, capsys):
    def fail(folder, download):
        (Path(folder) / "half.tar.gz").touch()
        raise error

    monkeypatch.setattr(torchvision.datasets, "EuroSAT", fail)
    assert prepare.main(["EuroSAT", "--root", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch("error: cannot download EuroSAT .*by hand: no folder .*eurosat/2750.*\n", captured.err)
    assert not list(tmp_path.iterdir())


def test_an_unexpected_layout_from_torchvision_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torchvision.datasets, "EuroSAT", lambda folder, download: None)
    assert prepare.main(["EuroSAT", "--root", str(tmp_path)]) == 2
    assert "EuroSAT made no eurosat/2750: fetch EuroSAT by hand" in capsys.readouterr().err


def test_prepare_prints_the_steps_to_take_by_hand(tmp_path, capsys):
    assert prepare.main(["ImageNet", "UCF101", "StanfordCars", "--root", str(tmp_path / "data")]) == 0
    output = capsys.readouterr().out
    for words in ("images/train: it should hold", "image-net.org", "UCF-101-midframes.zip", "issues/7545", "devkit/"):
        assert words in output
    assert not (tmp_path / "data").exists()
    assert prepare.main(["ImageFolder", "--root", str(tmp_path)]) == 2
    assert 'error: unknown data set to prepare "ImageFolder"' in capsys.readouterr().err


def test_prepare_copies_imagenets_class_names(tmp_path, capsys):
    write_imagenet(tmp_path)
    write_variant(tmp_path, "ImageNetA")
    (tmp_path / "imagenet-adversarial/classnames.txt").unlink()
    assert prepare.main(["ImageNetA", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "ImageNetA: complete\n"
    assert build_dataset(make_cfg("ImageNetA", tmp_path)).num_classes == 3


def test_torchvision_has_the_classes():
    for source, _ in prepare.DOWNLOADS.values():
        assert hasattr(torchvision.datasets, source)


def test_every_reader_that_needs_files_can_be_prepared():
    need_nothing = {"Emoji", "FashionMNIST", "Scenes", "ImageFolder", "CSV"}
    assert {name for name in our_readers() if not prepare.is_prepared_here(name)} == need_nothing


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "prepare"])
def test_commands_start_without_warnings(command):
    environment = {**os.environ, "PYTHONWARNINGS": "error::RuntimeWarning"}
    done = subprocess.run(
        [sys.executable, "-m", f"datasets.{command}", "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr and "--root" in done.stdout

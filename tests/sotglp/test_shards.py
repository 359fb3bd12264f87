"""Shards of features: whole or not there, damage found, many read as one, and the same bytes after any kill."""

import os
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sotglp.features import encode
from sotglp.shards import CLASS, Shards, identities

STREAMS = ["vv"]
SIZES = [3, 1, 2]  # images of each shard
STARTS = np.cumsum([0, *SIZES])
NAMES = [f"image {i}.png" for i in range(sum(SIZES))]
PIXELS = torch.arange(len(NAMES) * 5.0).view(-1, 5) / 7


class Source:
    """Images whose pixels are their rows of PIXELS, in batches of two."""

    def batches(self, numbers):
        for number in numbers:
            rows = range(STARTS[number], STARTS[number + 1])
            for at in (list(rows[i : i + 2]) for i in range(0, len(rows), 2)):
                batch = {"img": PIXELS[at], "label": torch.tensor(at) % 3, "size": len(at)}
                yield (
                    number,
                    {
                        **batch,
                        "impath": [NAMES[i] for i in at],
                        "images": identities(NAMES)[at],
                        "remarks": torch.tensor(at)[:, None] > torch.arange(3),
                    },
                )
            yield number, None


class Tower:
    proj = torch.zeros(1)

    @staticmethod
    def encode_images(images, streams):
        return 2 * images, {stream: images[:, None] + torch.arange(3.0).view(3, 1) for stream in streams}


def write(folder):
    """Go on with what is missing in a folder, as scripts.encode does."""
    shards = Shards.create(folder, len(SIZES), "a test")
    missing = shards.missing([CLASS, *STREAMS], range(len(SIZES)), every_byte=True)
    encode(Source(), missing, shards, Tower, STREAMS, half=True, progress=lambda *_: None)
    return missing


def content(folder):
    """{path: bytes} of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    assert write(folder) == [0, 1, 2] and write(folder) == []
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def test_shards_are_read_as_one(made):
    shards = Shards(made)
    chosen = np.array([5, 0, 4, 3, 0])
    places = shards.find(identities(NAMES)[chosen])
    patches = PIXELS[chosen][:, None] + torch.arange(3.0).view(3, 1)
    for stream, expected in ((CLASS, 2 * PIXELS[chosen]), ("vv", patches)):
        taken = shards.take(stream, places)
        assert taken.dtype == torch.float16 and torch.equal(taken, expected.half())
    assert torch.equal(shards.take(CLASS, places, "remarks"), torch.tensor(chosen)[:, None] > torch.arange(3))
    assert shards.find(identities([*NAMES, "another"])) is None
    names, labels = zip(*(shards.facts(number) for number in range(3)), strict=True)
    assert sum(names, []) == NAMES and sum(labels, []) == [i % 3 for i in range(len(NAMES))]


def test_views_of_an_image_are_told_apart():
    once, views = identities("abc"), identities("abcab")
    assert (views[:3] == once).all() and len(set(views.tolist())) == 5


def test_the_checksums_are_those_of_sha256sum(made):
    import subprocess

    for stream in (CLASS, *STREAMS):
        names = sorted(path.name for path in (made / stream).glob("*.sha256"))
        assert len(names) == 3
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", *names], cwd=made / stream, check=True)


def test_a_flipped_byte_is_found_named_and_mended(folder, capsys):
    expected, generator = content(folder), np.random.default_rng(0)
    paths = [path for stream in (CLASS, *STREAMS) for path in sorted((folder / stream).iterdir())]
    for path in paths:
        data = bytearray(path.read_bytes())
        data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(data)
        number = int(path.name[:5])
        assert write(folder) == [number]
        said = capsys.readouterr().out
        assert f"{path.with_suffix('.safetensors')} is damaged (its SHA-256 differs) and deleted" in said
        assert said.count("\n") == 1 and content(folder) == expected


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "gone"])
def test_what_a_run_checks_needs_no_reading(folder, damage, capsys):
    path = Shards(folder).path("vv", 2)
    data = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(
        {"cut": data[:-1], "longer": data + b"\0", "empty": b""}[damage]
    )
    assert Shards(folder).missing([CLASS, "vv"], range(3)) == [2]
    assert f"{path} is damaged" in capsys.readouterr().out
    assert not path.exists() and write(folder) == [2] and path.read_bytes() == data


def test_a_damaged_index_says_what_to_do(folder):
    (folder / "index.json").write_text('{"count": 3')
    with pytest.raises(ValueError, match="index.json is damaged .*: delete it"):
        write(folder)


def test_another_stream_leaves_the_others_as_they_are(folder):
    expected = content(folder)
    shutil.rmtree(folder / "vv")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert write(folder) == [0, 1, 2] and content(folder) == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_runs_leave_the_number_of_shards_and_the_name(folder):
    assert (Shards.create(folder, 7).count, Shards.create(folder, 7).of) == (3, "a test")
    Shards.create(folder / "a run's", 2)
    named = Shards.create(folder / "a run's", 3, "all")
    assert (named.count, named.of) == (2, "all")


def killed(folder, moment):
    """Write in a child process that is killed before its n-th use of a file; return whether it got that far."""
    child = os.fork()
    if child == 0:
        left = [moment]

        def count(event, arguments):
            if event in ("open", "os.rename", "os.remove", "os.mkdir"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            write(folder)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_any_moment_it_ends_with_the_same_bytes(made, tmp_path):
    """Each child goes on where the one before it was killed: the first few times within one shard."""
    torch.set_num_threads(1)  # threads do not live on in a child
    expected = content(made)
    moments = 0
    while killed(tmp_path / "alone", moments):
        whole = Shards(tmp_path / "alone") if (tmp_path / "alone" / "index.json").exists() else None
        for number in range(len(SIZES)) if whole else ():
            for stream in (CLASS, *STREAMS):
                checksum = whole.path(stream, number).with_suffix(".sha256")
                name = str(whole.path(stream, number).relative_to(whole.folder))
                assert not checksum.exists() or content(whole.folder)[name] == expected[name]
        moments += 1
    assert moments >= 20 and content(tmp_path / "alone") == expected


def test_two_that_write_the_same_shard_do_no_harm(made, tmp_path, monkeypatch):
    """The other one writes all of it while this one is about to give its file its name."""
    replace, inner = os.replace, []

    def meanwhile(source, target):
        if not inner:
            inner.append(True)
            write(tmp_path)
        replace(source, target)

    Shards.create(tmp_path, len(SIZES), "a test")
    monkeypatch.setattr(os, "replace", meanwhile)
    write(tmp_path)
    assert inner and content(tmp_path) == content(made)


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    shards = Shards.create(tmp_path, len(SIZES), "a test")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path)
    assert shards.missing([CLASS], range(3)) == [0, 1, 2] and not list(tmp_path.rglob("*.partial"))


def test_an_unreadable_shard_is_an_error(tmp_path):
    source = SimpleNamespace(batches=lambda numbers: iter([(0, None)]))
    with pytest.raises(OSError, match="none of the images of shard 0 can be read"):
        encode(source, [0], Shards.create(tmp_path, 1), Tower, [], False, lambda *_: None)

"""Two hundred random damages to miniatures of data sets: each ends in success or in one clear line."""

import os
import random
import shutil
from pathlib import Path

import pytest
from miniatures import (
    csv_rows,
    read,
    save,
    splits_of,
    write_aircraft,
    write_annotations,
    write_csv,
    write_folder,
    write_imagenet,
    write_images,
    write_split,
    write_variant,
)
from scipy import io

from dassl.utils import UserError, read_image
from datasets.ood import read_ood

NAMES_OF_OWN = {"blue": "sky blue", "green": "grass", "red": "rose"}


def write_own(root, name):
    if name == "ImageFolder":
        write_folder(root, ["blue", "green", "red"], 10)
    elif name == "split ImageFolder":
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            write_folder(root, ["blue", "green", "red"], count, split)
    else:
        write_csv(root, csv_rows(root, ["blue", "green"]))
    if name != "CSV":
        (root / "classnames.txt").write_text("".join(f"{key} {name}\n" for key, name in NAMES_OF_OWN.items()))


SUBJECTS = {
    "Caltech101": lambda root: write_split(root, "Caltech101", write_images(root, "Caltech101")),
    "EuroSAT": lambda root: write_images(root, "EuroSAT"),
    "OxfordPets": lambda root: (write_images(root, "OxfordPets"), write_annotations(root, "OxfordPets")),
    "UCF101": lambda root: (write_images(root, "UCF101"), write_annotations(root, "UCF101")),
    "OxfordFlowers": lambda root: (write_images(root, "OxfordFlowers"), write_annotations(root, "OxfordFlowers")),
    "StanfordCars": lambda root: (write_images(root, "StanfordCars"), write_annotations(root, "StanfordCars")),
    "FGVCAircraft": write_aircraft,
    "ImageNet": write_imagenet,
    "ImageNetV2": lambda root: write_variant(root, "ImageNetV2"),
    "ImageNetR": lambda root: write_variant(root, "ImageNetR"),
    "ImageFolder": lambda root: write_own(root, "ImageFolder"),
    "split ImageFolder": lambda root: write_own(root, "split ImageFolder"),
    "CSV": lambda root: write_own(root, "CSV"),
    "OOD": lambda root: [save(root / "SUN/images" / path) for path in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "3.jpg")],
}


def read_subject(name, root):
    """All images of a subject's miniature as one list, each opened, and its class names."""
    if name == "OOD":
        items, classnames = read_ood("SUN", root), None
    else:
        dataset = read(name.split()[-1], root, MAKE_SPLIT=True)
        items, classnames = [item for items in splits_of(dataset) for item in items], dataset.classnames
    for item in items:
        assert read_image(item.impath).mode == "RGB"
    return items, classnames


def replace(path, how):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    how(path)


def truncate(path, generator):
    data = path.read_bytes()
    path.write_bytes(data[: generator.randrange(1, len(data))])


def wrong_json(path, generator):
    path.write_text(generator.choice(['{"train": [', "[]", '{"train": {}, "val": [], "test": []}', "[" * 5000, "null"]))


def lose_line(path, generator):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: (i := generator.randrange(len(lines)))] + lines[i + 1 :]))


def wrong_mat(path, generator):
    names = [name for name, *_ in io.whosmat(path)]
    io.savemat(path, {name: generator.choice([3, "", "text", [[]], {"class": 1.5}]) for name in names})


FOLDER_DAMAGES = {
    "missing": lambda path, generator: shutil.rmtree(path),
    "empty": lambda path, generator: replace(path, Path.mkdir),
    "file": lambda path, generator: replace(path, Path.touch),
    "loop": lambda path, generator: replace(path, lambda link: link.symlink_to(link.name)),
    "link to its parent": lambda path, generator: replace(path, lambda link: link.symlink_to("..")),
    "name": lambda path, generator: path.rename(
        path.with_name(f"{path.name}_ßあ\n\udcff"[: generator.randrange(1, 20)])
    ),
}


FILE_DAMAGES = {
    "missing": lambda path, generator: path.unlink(),
    "0 bytes": lambda path, generator: path.write_bytes(b""),
    "garbage": lambda path, generator: path.write_bytes(generator.randbytes(40)),
    "folder": lambda path, generator: replace(path, Path.mkdir),
    "loop": lambda path, generator: replace(path, lambda link: link.symlink_to(link.name)),
    "name": lambda path, generator: path.rename(
        path.with_name(generator.choice(["é\n", "\udcff", "写真 "]) + path.name)
    ),
}


IMAGE_DAMAGES = {**FILE_DAMAGES, "truncated": truncate}


LIST_DAMAGES = {**FILE_DAMAGES, "line": lose_line}


JSON_DAMAGES = {**FILE_DAMAGES, "truncated": truncate, "wrong": wrong_json}


MAT_DAMAGES = {**FILE_DAMAGES, "truncated": truncate, "wrong": wrong_mat}


DAMAGES = {".txt": LIST_DAMAGES, ".csv": LIST_DAMAGES, ".json": JSON_DAMAGES, ".mat": MAT_DAMAGES}


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """{subject: (its folder, {path under it: class name})}"""
    root, made = tmp_path_factory.mktemp("miniatures"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        for name, write in SUBJECTS.items():
            (root / name).mkdir()
            write(root / name)
            items, _ = read_subject(name, root / name)
            made[name] = root / name, {os.path.relpath(item.impath, root / name): item.classname for item in items}
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_200_damages_each_end_in_success_or_one_line(miniatures, tmp_path):
    generator, outcomes = random.Random(0), {"success": 0, "error": 0}
    for number in range(200):
        name = generator.choice(list(miniatures))
        folder, truth = miniatures[name]
        root = tmp_path / "damaged"
        shutil.copytree(folder, root)
        path = generator.choice([path for path in sorted(root.rglob("*")) if path != root])
        damages = FOLDER_DAMAGES if path.is_dir() else DAMAGES.get(path.suffix, IMAGE_DAMAGES)
        damage = generator.choice(list(damages))
        damages[damage](path, generator)
        case = f"{number}: {name}, {damage} of {path.relative_to(root)!s:.99}"
        try:
            items, classnames = read_subject(name, root)
        except (UserError, OSError) as error:
            assert len(str(error).splitlines()) == 1, f"{case}: {error}"
            outcomes["error"] += 1
        else:
            unnamed = name.endswith("ImageFolder") and not (root / "classnames.txt").exists()  # a user's choice
            for item in items:
                expected = truth.get(os.path.relpath(item.impath, root), item.classname)
                assert item.classname == expected or unnamed and NAMES_OF_OWN[item.classname] == expected, case
                assert classnames is None or classnames[item.label] == item.classname, case
            outcomes["success"] += 1
        for link in root.rglob("*"):
            if link.is_symlink():
                link.unlink()
        shutil.rmtree(root)
    assert min(outcomes.values()) > 20

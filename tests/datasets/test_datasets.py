"""Readers of the field's data sets, on miniatures with the real layout and kinds of file."""

import shutil
from pathlib import Path

import pytest
import yaml
from miniatures import (
    ROOT,
    WNIDS,
    content,
    our_readers,
    read,
    save,
    splits_of,
    write_aircraft,
    write_imagenet,
    write_variant,
)

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError
from datasets.imagenet import VARIANTS
from datasets.ood import OOD_SETS, SHIFTED, read_ood
from scripts.ood_sets import read_shifted


def test_aircraft(tmp_path):
    variants = write_aircraft(tmp_path)
    dataset = read("FGVCAircraft", tmp_path)
    assert dataset.classnames == variants and [len(items) for items in splits_of(dataset)] == [15, 6, 9]
    assert [item.label for item in dataset.val] == [0, 0, 1, 1, 2, 2]
    assert dataset.test[3].impath == str(tmp_path / "fgvc_aircraft/images/test100.jpg")
    folder = tmp_path / "fgvc_aircraft"
    (folder / "variants.txt").write_text("707-320\nDR-400\n")
    with pytest.raises(UserError, match='variants.txt has no "Boeing 717"'):
        read("FGVCAircraft", tmp_path)
    for piece in ("images_variant_val.txt", "variants.txt"):
        (folder / piece).unlink()
        with pytest.raises(FileNotFoundError, match=f"no file {folder}/{piece}: .*fgvc-aircraft"):
            read("FGVCAircraft", tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_imagenet(name, tmp_path):
    folders = write_variant(tmp_path, name)
    dataset = read(name, tmp_path, NUM_SHOTS=1)
    assert dataset.classnames == list(WNIDS.values())[: len(folders)]
    assert dataset.train_x == dataset.test and not dataset.val
    assert [item.label for item in dataset.test] == [label for label in range(len(folders)) for _ in range(3)]
    assert [Path(item.impath).parent.name for item in dataset.test[::3]] == folders
    new = read(name, tmp_path, SUBSAMPLE_CLASSES="new")
    assert {Path(item.impath).parent.name for item in new.test} == set(folders[2:])
    folder, images, *_ = VARIANTS[name]
    empty = tmp_path / folder / images / folders[1]
    shutil.rmtree(empty)
    empty.mkdir()
    with pytest.raises(UserError, match=f"{empty} has no images"):
        read(name, tmp_path)
    (tmp_path / folder / "classnames.txt").unlink()
    with pytest.raises(FileNotFoundError, match="classnames.txt: copy it from imagenet/"):
        read(name, tmp_path)


def test_a_missing_class_with_the_name_of_another_is_noticed(tmp_path):
    write_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "imagenet/images/val/n03126707")  # a crane, as is n02012849
    with pytest.raises(UserError, match="train and val must have the same <wnid> folders"):
        read("ImageNet", tmp_path)


def test_folders_of_imagenetv2_count_the_lines_of_classnames(tmp_path):
    write_variant(tmp_path, "ImageNetV2")
    folder = tmp_path / "imagenetv2"
    lines = (folder / "classnames.txt").read_text().splitlines(keepends=True)
    (folder / "classnames.txt").write_text("".join(reversed(lines)))
    with pytest.raises(UserError, match="sorted by <wnid>"):
        read("ImageNetV2", tmp_path)
    (folder / "classnames.txt").write_text("".join(lines[:3]))
    with pytest.raises(UserError, match="folders 0 to 2, one for each line"):
        read("ImageNetV2", tmp_path)


@pytest.mark.parametrize("name", OOD_SETS)
def test_ood_sets(name, tmp_path):
    folder = tmp_path / OOD_SETS[name]
    with pytest.raises(FileNotFoundError, match=f"no folder {folder} with OOD images: give iNaturalist, SUN"):
        read_ood(name, tmp_path)
    for path in ("b.jpg", "a/b/1.jpg", "a/2.JPEG", ".hidden/3.jpg", "a/list.txt"):
        save(folder / path) if path != "a/list.txt" else (folder / path).write_text("")
    (folder / "a/loop").symlink_to(folder)
    items = read_ood(name, tmp_path)
    assert content(items, folder) == [[path, -1, name] for path in ("a/2.JPEG", "a/b/1.jpg", "b.jpg")]
    assert content(read_ood(str(folder)), folder) == [
        [path, -1, folder.name] for path in ("a/2.JPEG", "a/b/1.jpg", "b.jpg")
    ]


def test_an_ood_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        read_ood(str(tmp_path))
    known = "give iNaturalist, SUN, Places, Textures, OpenImage-O, SSB-hard, NINCO .* or the path of a folder"
    with pytest.raises(FileNotFoundError, match=known):
        read_ood("Sun", tmp_path)


def test_a_list_of_ood_images(tmp_path):
    for path in ("data/a/1.jpg", "data/b 2.jpg", "elsewhere/3.jpg"):
        save(tmp_path / path)
    lines = ["b 2.jpg -1", "", "a/1.jpg 17", f"{tmp_path}/elsewhere/3.jpg", "b 2.jpg"]
    (tmp_path / "near.txt").write_text("\n".join(lines))
    items = read_ood(str(tmp_path / "near.txt"), tmp_path / "data")
    paths = ["data/b 2.jpg", "data/a/1.jpg", "elsewhere/3.jpg", "data/b 2.jpg"]
    assert content(items, tmp_path) == [[path, -1, "near"] for path in paths]
    for text, error, message in (
        ("\n", UserError, "lists no images"),
        ("a/1.jpg 17\na/2.jpg 17", FileNotFoundError, "lists .*/data/a/2.jpg, but there is no such image"),
    ):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(error, match=message):
            read_ood(str(tmp_path / "bad.txt"), tmp_path / "data")


@pytest.mark.parametrize("name", SHIFTED)
def test_shifted_images_are_those_of_imagenets_variants(name, tmp_path):
    write_variant(tmp_path, name)
    expected = content(read(name, tmp_path).test, tmp_path)
    assert content(read_shifted([name], str(tmp_path)), tmp_path) == expected != []
    assert list(SHIFTED) == list(VARIANTS)


def test_config_files_have_the_ecosystems_names():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs/datasets").glob("*.yaml")}
    names = [tree["DATASET"].pop("NAME") for tree in files.values()]
    assert sorted(names) == sorted(our_readers())
    assert all(tree == {"DATASET": {}} for tree in files.values())


def test_a_users_reader_takes_the_name_of_ours():
    class EuroSAT:
        pass

    ours = DATASET_REGISTRY.get("EuroSAT")
    try:
        assert DATASET_REGISTRY.register(EuroSAT) is DATASET_REGISTRY.get("EuroSAT")
    finally:
        DATASET_REGISTRY.register(ours, force=True)
        DATASET_REGISTRY._fallbacks.add("EuroSAT")

"""Kinds of image files that people have: each is read as a viewer shows it, everywhere by the same function."""

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from miniatures import make_cfg
from picture_kinds import GREY, RGB, SMOOTH, disc, encoded, kinds, turned
from PIL import Image
from torchvision.transforms.functional import to_tensor

from dassl.data.data_manager import build_data_loader, reading, remarked
from dassl.data.datasets import Datum
from dassl.utils import UserError, read_image
from dassl.utils.images import REMARKS, in_words, to_rgb

KINDS = kinds()


@pytest.mark.parametrize("name", KINDS)
def test_an_image_has_the_pixels_that_a_viewer_shows(name, tmp_path):
    end, content, seen, off, remarks = KINDS[name]
    path, said = tmp_path / f"x.{end}", set()
    path.write_bytes(content)
    image = read_image(path, truncated=True, remarks=said)
    assert image.mode == "RGB" and image.size == seen.shape[1::-1]
    assert np.abs(np.asarray(image, float) - seen).max() <= off
    assert said == remarks
    again = set()
    assert np.array_equal(to_rgb(image, remarks=again), image) and not again  # a picture is turned once


def test_all_kinds_are_many():
    assert len(KINDS) >= 55 and set().union(*(remarks for *_, remarks in KINDS.values())) == set(REMARKS)


def test_pixels_as_stored_where_published_figures_rest_on_them(tmp_path):
    for name, (end, content, *_) in KINDS.items():
        (tmp_path / f"x.{end}").write_bytes(content)
        with Image.open(tmp_path / f"x.{end}") as stored:
            opaque = stored.mode in ("1", "L", "RGB", "CMYK", "P") and not stored.has_transparency_data
            if opaque and "truncated" not in KINDS[name][4]:
                pixels = read_image(tmp_path / f"x.{end}", exif=False)
                assert np.array_equal(pixels, stored.convert("RGB")), name


def test_exif_and_background_are_settings(tmp_path):
    own, field = make_cfg("ImageFolder", tmp_path), make_cfg("Caltech101", tmp_path)
    assert reading(own)["exif"] and not reading(field)["exif"]
    own.INPUT.EXIF, field.INPUT.EXIF = "off", "on"
    assert not reading(own)["exif"] and reading(field)["exif"]
    disc()[0].save(tmp_path / "x.png")
    corner = read_image(tmp_path / "x.png", background="#102030").getpixel((0, 0))
    assert corner == (16, 32, 48)


def test_a_run_counts_what_it_remarks(tmp_path):
    stored, exif = turned(6)
    stored.save(tmp_path / "a.png", exif=exif)
    disc()[0].save(tmp_path / "b.png")
    disc()[0].save(tmp_path / "c.png")
    cfg = make_cfg("ImageFolder", tmp_path)
    cfg.DATALOADER.NUM_WORKERS = 1  # in a process of its own
    items = [Datum(str(tmp_path / name), classname="x") for name in ("a.png", "b.png", "c.png")]
    loader = build_data_loader(cfg, data_source=items, is_train=False, tfm=to_tensor)
    list(loader)
    counts = remarked([loader.dataset, loader.dataset])
    assert counts == {"turned": 1, "background": 2}
    assert in_words(counts) == (
        "2 images transparent: laid on the background (INPUT.BACKGROUND); "
        "1 image turned as their EXIF data say (INPUT.EXIF)"
    )


@pytest.mark.parametrize("choice", ["load", "stop", "skip"])
def test_on_error_decides_about_an_image_that_is_cut_off(choice, tmp_path, capsys):
    whole = encoded(SMOOTH, "JPEG", quality=95)
    (tmp_path / "cut.jpg").write_bytes(whole[:-4])
    cfg = make_cfg("ImageFolder", tmp_path)
    cfg.DATALOADER.ON_ERROR, cfg.DATALOADER.NUM_WORKERS = choice, 0
    loader = build_data_loader(cfg, data_source=[Datum(str(tmp_path / "cut.jpg"))], is_train=False, tfm=to_tensor)
    if choice == "stop":
        with pytest.raises(UserError, match=f"cannot read image {tmp_path}/cut.jpg: .*truncated"):
            list(loader)
    else:
        batches = list(loader)
        assert len(batches) == (choice == "load") and ("skipped: cannot read" in capsys.readouterr().err) == (
            not batches
        )
        assert remarked([loader.dataset]) == ({"truncated": 1} if batches else {})


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.png", b"", "the file is empty"),
        ("x.jpg", b"no image at all", "it is no image that Pillow knows"),
        ("x.jpg", encoded(SMOOTH, "JPEG")[:300], "[Tt]runcated"),  # nothing of the picture is there
        ("x.heic", b"\0\0\0\x18ftypheic" + bytes(20), "pip install pillow-heif"),
        ("x.jpg", b"\0\0\0\x18ftypmif1" + bytes(20), "pip install pillow-heif"),
        ("x.avif", b"\0\0\0\x18ftypavif" + bytes(20), ""),
        ("missing.png", None, "there is no such file"),
    ],
)
def test_what_is_no_image_is_one_line(name, content, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^cannot read image {tmp_path}/{name}: .*{message}[^\n]*$"):
        read_image(tmp_path / name, truncated=True)


def test_heic_is_read_by_its_plugin(tmp_path):
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    SMOOTH.save(tmp_path / "x.heic", quality=100, chroma=444)
    assert np.abs(np.asarray(read_image(tmp_path / "x.heic"), float) - RGB).max() < 12


def test_pillows_own_warnings_are_not_shown(tmp_path, monkeypatch):
    SMOOTH.save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB.size // 3 - 1)
    with warnings.catch_warnings(record=True) as shown:
        read_image(tmp_path / "large.png")
    assert not shown
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREY.size // 3)
    with pytest.raises(UserError, match="large.png: it has more than 0 million pixels$"):
        read_image(tmp_path / "large.png")


def test_one_function_opens_images():
    """Training, tests, predictions, pictures, reports, exported models: none decodes files in its own way."""
    root = Path(__file__).parents[2]
    files = [
        path for top in ("dassl", "sotglp", "trainers", "datasets", "scripts") for path in (root / top).rglob("*.py")
    ]
    opening = {str(path.relative_to(root)) for path in files if "Image.open(" in path.read_text()}
    makers = {path for path in opening if path.startswith("scripts/embedded/")}  # they make the embedded data
    assert opening - makers == {"dassl/utils/images.py"}


def test_the_exported_reader_is_the_same():
    from sotglp.toolbox.classify import Model

    facts = {"size": 24, "interpolation": "bicubic", "pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1]}
    model = SimpleNamespace(facts={**facts, "exif": True, "background": "white"})
    stored, exif = turned(6)
    stored.info["exif"] = exif.tobytes()
    turned_back = Model.preprocess(model, stored)
    assert np.array_equal(turned_back, Model.preprocess(model, SMOOTH))

"""Tables as spreadsheets write them."""

import os

import pytest
from miniatures import read, save, splits_of

from dassl.utils import UserError

SPLITS = ["train"] * 4 + ["val"] + ["test"] * 2


@pytest.fixture
def images(tmp_path):
    """The folder, with images/<class> <n>.png that differ."""
    for label, name in enumerate(("rose", "leaf", "Zürich, See")):
        for number in range(7):
            save(tmp_path / "images" / f"{name} {number}.png", (40 * label, 20 * number, 9))
    return tmp_path


def rows(quote='"'):
    """[(path, label, split)] with commas quoted."""
    names = ("rose", "leaf", "Zürich, See")
    return [
        (f"{quote}images/{name} {n}.png{quote}", f"{quote}{name}{quote}", split)
        for name in names
        for n, split in enumerate(SPLITS)
    ]


def check(folder, notes=(), sizes=(12, 3, 6)):
    dataset = read("CSV", folder)
    assert dataset.classnames == ["Zürich, See", "leaf", "rose"] and tuple(dataset.notes) == tuple(notes)
    assert tuple(map(len, splits_of(dataset))) == sizes
    for item in (item for items in splits_of(dataset) for item in items):
        assert os.path.basename(item.impath).startswith(item.classname) and os.path.isfile(item.impath)
    return dataset


def text(separator=",", head=("path", "label", "split"), order=(0, 1, 2), end="\n", wrap=str):
    lines = [head, *rows()]
    return end.join(separator.join(wrap(line[i]) for i in order) for line in lines) + end


KINDS = {
    "plain": text().encode(),
    "BOM": text().encode("utf-8-sig"),
    "semicolons": text(";").encode(),
    "tabs": text("\t").encode(),
    "bars": text("|").encode(),
    "Windows lines": text(end="\r\n").encode("utf-8-sig"),
    "Mac lines": text(end="\r").encode(),
    "capitals": text(head=("Path", "LABEL", " Split ")).encode(),
    "another order": text(order=(2, 1, 0)).encode(),
    "UTF-16": text("\t").encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + text().encode("utf-16-be"),
    "sep line": ("sep=;\n" + text(";")).encode(),
    "back-slashes": text().replace("images/", "images\\").encode(),
    "back-slashes with a dot": text().replace("images/", ".\\images\\").encode(),
    "spaces": text(", ").encode(),
    "spaces after": text(" ,", wrap=lambda cell: cell).replace('" ,', '",').encode(),
    "empty lines": (text() + "\n,,\n\n").encode(),
    "further columns": "".join(f"{n},{line},note\n" for n, line in enumerate(text().splitlines())).encode(),
    "names of splits": text().replace("train", "Training").replace(",val", ",DEV").replace(",test", ",TEST ").encode(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tables(kind, images):
    (images / "images.csv").write_bytes(KINDS[kind])
    check(images)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_other_encodings_are_said(encoding, images):
    (images / "images.csv").write_bytes(text(";").encode(encoding))
    check(images, ["images.csv is not in UTF-8: it is read as Windows-1252 (Latin-1)"])


def test_a_tab_separated_file_by_its_name(images):
    (images / "images.tsv").write_bytes(text("\t").encode())
    check(images)


def test_without_splits(images):
    (images / "images.csv").write_text(
        "".join(f"{path},{label}\n" for path, label, _ in [("path", "label", 0), *rows()])
    )
    first, second = check(images, sizes=(12, 3, 6)), read("CSV", images, SEED=2)
    assert [item.impath for item in first.test] == [item.impath for item in second.test]


def test_absolute_paths(images):
    (images / "images.csv").write_text(text().replace('"images/', f'"{images}/images/'))
    check(images)


@pytest.mark.parametrize(
    "label, message",
    [
        ("Rose", r'is "rose" \(line 2\) the same class as "Rose" \(line 23\)\? Write both in the same way'),
        ("rose ", r'is "rose" \(line 2\) the same class as "rose " \(line 23\)\?'),
        ("ro se", r'is "rose" \(line 2\) the same class as "ro se"'),
    ],
)
def test_labels_that_may_be_one_are_asked_about(label, message, images):
    save(images / "images/other.png")
    (images / "images.csv").write_text(text() + f'images/other.png,"{label}",train\n')
    with pytest.raises(UserError, match=message):
        read("CSV", images)


@pytest.mark.parametrize("how", ["absolute", "dots", "link", "folder link", "hard link"])
def test_the_same_image_in_two_splits_is_refused(how, images):
    path = {"absolute": f"{images}/images/rose 0.png", "dots": "images/../images/rose 0.png", "link": "link.png",
            "folder link": "other/rose 0.png", "hard link": "hard.png"}[how]  # fmt: skip
    (images / "link.png").symlink_to("images/rose 0.png")
    (images / "other").symlink_to("images")
    os.link(images / "images/rose 0.png", images / "hard.png")
    (images / "images.csv").write_text(text() + f"{path},rose,test\n")
    with pytest.raises(UserError, match="line 23: .* is in line 2 already|tested images must not be trained on"):
        read("CSV", images)


def test_equal_bytes_are_said(images):
    os.link(images / "images/rose 0.png", images / "hard.png")
    (images / "copy.png").write_bytes((images / "images/rose 0.png").read_bytes())
    (images / "images.csv").write_text(text() + "copy.png,rose,test\n")
    (line,) = read("CSV", images).notes
    assert "byte by byte" in line and ": 1, such as" in line


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.xlsx", b"PK", "no .csv file in .*: save a.xlsx as CSV"),
        ("a.csv", b"path,label,split\n\x00\x01", "holds bytes of no text"),
        ("a.csv", b"file,class\na,b\n", "no column path: the first line should be path,label,split, got file, class"),
        ("a.csv", b"path;label\n;x\n", "line 2: need a path and a label"),
        ("a.csv", b"path,label,split\nx.png,a,later\n", "line 2: need a path, a label and a split of train, val, test"),
        ("a.csv", b"path,label,split\n\n", "has no images"),
    ],
)
def test_what_cannot_be_understood_is_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        read("CSV", tmp_path)

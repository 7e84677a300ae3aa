from __future__ import annotations

from pathlib import Path

import pytest

from facetrain.errors import InputError
from facetrain.evaluation import load_pairs, save_bin
from tests.evaluation.helpers import picture_pairs
from tests.shared import shared_path


@pytest.fixture
def folder(tmp_path):
    for name in ("Ann/0001.jpg", "Ann/0002.jpg", "Bob B/0001.jpg", "Cy/Cy_0001.png", "Cy/Cy_0012.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def write(folder, text, name="pairs.txt", encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def named(pair_set):
    return [(bool(s), *(pair_set.names[i] for i in p)) for s, p in zip(pair_set.is_same, pair_set.pairs)]


@pytest.mark.parametrize(("newline", "encoding"), [("\n", "utf-8"), ("\r\n", "utf-8-sig")])
def test_tab_separated_lines(folder, newline, encoding, monkeypatch):
    reads = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path.name) or original(path))
    lines = ["1\tAnn/0001.jpg\tAnn/0002.jpg", "", "0\tAnn/0001.jpg\tBob B/0001.jpg", "0\tAnn/0002.jpg\tBob B/0001.jpg"]
    pair_set = load_pairs(write(folder, newline.join(lines) + newline, encoding=encoding))
    assert named(pair_set) == [
        (True, "Ann/0001.jpg", "Ann/0002.jpg"),
        (False, "Ann/0001.jpg", "Bob B/0001.jpg"),
        (False, "Ann/0002.jpg", "Bob B/0001.jpg"),
    ]
    assert pair_set.images == [b"Ann/0001.jpg", b"Ann/0002.jpg", b"Bob B/0001.jpg"]
    assert len(reads) == 3 and pair_set.name == "pairs"


def test_paths_may_be_relative_to_another_folder(folder):
    path = write(folder, "1\t0001.jpg\t0002.jpg\n", "lists/own.tsv")
    assert len(load_pairs(path, root=folder / "Ann")) == 1
    with pytest.raises(InputError):
        load_pairs(path)


def test_lfw_lists_with_both_ways_of_naming_images(folder):
    pair_set = load_pairs(write(folder, "2\t1\nAnn\t1\t2\nAnn\t1\tCy\t12\nCy\t1\t12\nBob B\t1\tAnn\t2\n"))
    assert named(pair_set) == [
        (True, "Ann/0001.jpg", "Ann/0002.jpg"),
        (False, "Ann/0001.jpg", "Cy/Cy_0012.jpg"),
        (True, "Cy/Cy_0001.png", "Cy/Cy_0012.jpg"),
        (False, "Bob B/0001.jpg", "Ann/0002.jpg"),
    ]


def test_lfw_development_lists_have_one_number_on_top(folder):
    assert load_pairs(write(folder, "1\nAnn 1 2\nAnn 1 Cy 1\n")).is_same.tolist() == [True, False]


def test_bin_files_are_known_by_name_and_by_content(tmp_path):
    pair_set = picture_pairs()
    save_bin(tmp_path / "set.bin", pair_set)
    save_bin(tmp_path / "set.dat", pair_set)
    assert load_pairs(tmp_path / "set.bin").fingerprint() == load_pairs(tmp_path / "set.dat").fingerprint()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("1 Ann/0001.jpg Ann/0002.jpg\n", ["line 1", "<TAB>"]),
        ("1\tAnn/0001.jpg\tAnn/0002.jpg\n\nyes\tAnn/0001.jpg\tAnn/0002.jpg\n", ["line 3", "'yes"]),
        ("1\tAnn/0001.jpg\tAnn/0002.jpg\n0\tAnn/0001.jpg\tDee/0001.jpg\n", ["line 2", "Dee/0001.jpg", "as root"]),
        ("1\tAnn\tAnn/0002.jpg\n", ["line 1", "cannot read image"]),
        ("2 1\nAnn 1 2\n", ["announces 4 pairs", "holds 1"]),
        ("1 1\nAnn 1 2\nAnn one Cy 1\n", ["line 3", "'name i name j'"]),
        ("1 1\nAnn 1 2\nAnn 1 Cy 7\n", ["line 3", "Cy_0007.jpg"]),
        ("0 0\n", ["no pairs"]),
    ],
)
def test_bad_lists_name_file_line_and_remedy(folder, text, parts):
    path = write(folder, text)
    with pytest.raises(InputError) as caught:
        load_pairs(path)
    assert all(part in str(caught.value) for part in [str(path), *parts]) and "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="no.txt"):
        load_pairs(tmp_path / "no.txt")
    (tmp_path / "photo.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="neither text nor"):
        load_pairs(tmp_path / "photo.txt")


def test_the_development_set():
    pair_set = load_pairs(shared_path("faces/lfw-dev/val_pairs.txt"))
    assert len(pair_set) == 2984 and pair_set.num_same == 1492 and len(pair_set.images) <= 782
    for is_same, first, second in named(pair_set):
        assert is_same == (Path(first).parent == Path(second).parent)

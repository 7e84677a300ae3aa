"""``facetrain data check``, ``overlap`` and ``info`` as a user meets them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facetrain.cli import data, main
from facetrain.data.record_source import RecordSource
from facetrain.images import encode_jpeg
from tests.data.faces import pictures, write_folder
from tests.data.test_check import smash, write_faces


def answer(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def records(tmp_path):
    return write_faces(tmp_path / "set", np.repeat(np.arange(3), 4), broken=[5])


def test_a_clean_set_is_0(tmp_path, capsys):
    write_folder(tmp_path / "set", {"ann": 2, "bob": 2})
    assert main(["data", "check", str(tmp_path / "set"), "--workers", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "images           4",
        "identities       2",
        "damaged          0",
        "repeated_within  0",
        "repeated_across  0",
    ]
    assert "checking: 4/4" in captured.err


def test_damage_is_1_and_repaired_is_0(records, tmp_path, capsys):
    offset = smash(records, 2)
    table = tmp_path / "bad.csv"
    assert main(["data", "check", str(records), "--report", str(table)]) == 1
    shown = capsys.readouterr().err
    assert f"damaged: {records} record 2 at byte offset {offset}: damaged record" in shown
    assert "record 6 at byte offset" in shown and "expected a whole JPEG image" in shown
    with open(table, encoding="utf-8", newline="") as handle:
        assert [row["key"] for row in csv.DictReader(handle)] == ["2", "6"]
    assert main(["data", "check", str(records), "--repair"]) == 0
    assert "repaired: " in capsys.readouterr().out
    assert main(["data", "check", str(records), "--repair", "--json"]) == 0
    about = answer(capsys)
    assert (about["images"], about["damaged"], about["repaired"]) == (10, 0, None)
    assert RecordSource(records).num_images == 10


def test_json_names_what_is_damaged(records, capsys):
    assert main(["data", "check", str(records), "--json"]) == 1
    about = answer(capsys)
    assert about["clean"] is False
    (damage,) = about["damage"]
    assert (damage["file"], damage["key"]) == (str(records), 6) and damage["offset"] > 0
    assert about["duplicates"] == {"within": 0, "across": 0, "examples": []}


def test_repeated_images_are_a_warning(tmp_path, capsys):
    image = encode_jpeg(pictures(1)[0])
    for name in ("ann/1.jpg", "ann/2.jpg", "bob/1.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(image)
    assert main(["data", "check", str(tmp_path / "set")]) == 0
    shown = capsys.readouterr().err
    assert "1 images repeat another of the same identity, 1 images stand under several identities" in shown
    assert "the same image: ann/1.jpg, ann/2.jpg, bob/1.jpg; identities: ann, bob" in shown


def test_wrong_use_is_2(tmp_path, capsys):
    write_folder(tmp_path / "set", {"ann": 1, "bob": 1})
    for arguments, message in [
        ([str(tmp_path / "set"), "--repair"], "only the index of a record file"),
        ([str(tmp_path / "none")], "does not exist"),
        ([str(tmp_path / "set"), "--workers", "-1"], "--workers"),
        ([], "SRC"),
    ]:
        assert main(["data", "check", *arguments]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and "checking" not in captured.err


def test_checking_loads_no_tensorflow(records):
    code = (
        "import sys; from facetrain.cli import main\n"
        "code = main(['data', 'check', sys.argv[1]])\n"
        "sys.exit(10 * code + ('tensorflow' in sys.modules))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(records)], cwd=root, capture_output=True, check=False)
    assert done.returncode == 10, done.stderr.decode()


def test_overlap(tmp_path, capsys):
    write_folder(tmp_path / "train", {"Ann_Lee": 1, "bob": 1, "Zoë": 1})
    images = write_folder(tmp_path / "val", {"ann-lee": 2, "BOB ": 1, "carl": 1})
    names = sorted(images)
    (tmp_path / "val" / "pairs.txt").write_text("".join(f"0\t{names[0]}\t{other}\n" for other in names[1:]))
    for evaluation in (tmp_path / "val", tmp_path / "val" / "pairs.txt"):
        assert main(["data", "overlap", str(tmp_path / "train"), str(evaluation), "--json"]) == 0
        assert answer(capsys) == {"train": 3, "eval": 3, "shared": 2, "names": ["Ann_Lee", "bob"]}
    assert main(["data", "overlap", str(tmp_path / "train"), str(tmp_path / "val")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["Ann_Lee", "bob"] and printed[2].startswith("2 of 3 identities in ")


def test_overlap_needs_names(records, tmp_path, capsys):
    write_folder(tmp_path / "val", {"ann": 1})
    assert main(["data", "overlap", str(records), str(tmp_path / "val")]) == 2
    assert "numbers, not names" in capsys.readouterr().err


def test_info_draws_how_many_images_people_have(tmp_path, capsys):
    write_folder(tmp_path / "set", {"a": 1, "b": 1, "c": 1, "d": 1, "e": 4})
    assert main(["data", "info", str(tmp_path / "set"), "--size", "16"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "cache_bytes                 6144 (0.0 MB)" in printed
    start = printed.index("")
    assert [line.split() for line in printed[start + 1 :]] == [
        ["images", "of", "one", "person", "people", "images"],
        ["1", "4", "█" * 30, "4"],
        ["2", "to", "3", "0", "0"],
        ["4", "to", "7", "1", "█" * 7 + "▌", "4"],
    ]


@pytest.mark.parametrize(
    ("share", "drawn"), [(0, ""), (1e-9, "▏"), (1 / 30, "█"), (0.05, "█▌"), (0.999, "█" * 30), (1, "█" * 30)]
)
def test_bars(share, drawn):
    assert data._bar(share) == drawn


def test_bars_where_there_are_no_blocks(monkeypatch):
    class Plain:
        encoding = "ANSI_X3.4-1968"

    monkeypatch.setattr("sys.stdout", Plain())
    assert [data._bar(share) for share in (0, 1e-9, 0.5)] == ["", "#", "#" * 15]

"""``facetrain data pack``, ``unpack``, ``merge`` and ``filter`` as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facetrain.cli import main
from facetrain.data.recordio import RecordIOReader
from facetrain.data.sources import open_source
from facetrain.data.synth_folder import write_synthetic
from tests.data.faces import write_folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Three people with two photographs each, and their landmarks."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "faces", 3, 2, seed=1, size=64)


def run(capsys, *words) -> dict:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refuse(capsys, *words) -> str:
    assert main([*map(str, words)]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("form", ["rec", "tfrecord", "folder"])
def test_pack_and_unpack_give_the_files_back(faces, tmp_path, capsys, form):
    report = run(capsys, "data", "pack", faces, tmp_path / "packed", "--format", form)
    assert (report["num_images"], report["format"], report["skipped"]) == (6, form, [])
    report = run(capsys, "data", "unpack", tmp_path / "packed", tmp_path / "out")
    assert (report["num_images"], report["num_identities"], report["format"]) == (6, 3, "folder")
    for folder in sorted(path for path in faces.iterdir() if path.is_dir()):
        written = sorted((tmp_path / "out" / folder.name).iterdir())
        assert [path.read_bytes() for path in written] == [path.read_bytes() for path in sorted(folder.iterdir())]


def test_landmarks_are_kept(faces, tmp_path, capsys):
    table = faces / "landmarks.csv"
    run(capsys, "data", "pack", faces, tmp_path / "tf", "--format", "tfrecord", "--landmarks", table)
    assert run(capsys, "data", "info", tmp_path / "tf")["landmarks"] is True
    run(capsys, "data", "unpack", tmp_path / "tf", tmp_path / "out")
    assert (tmp_path / "out" / "landmarks.csv").read_text() == table.read_text()


def test_shards_and_order(faces, tmp_path, capsys):
    options = ["--format", "tfrecord", "--shards", "3", "--shuffle", "--seed", "5"]
    assert run(capsys, "data", "pack", faces, tmp_path / "out", *options)["num_images"] == 6
    names = [f"train-{number:05d}-of-00003.tfrecord" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tfrecord")) == names
    order = np.random.default_rng(5).permutation(6)
    assert open_source(tmp_path / "out").read(range(6)) == open_source(faces).read(order)


def test_further_labels_in_a_record_file(faces, tmp_path, capsys):
    names = sorted(path.relative_to(faces).as_posix() for path in faces.glob("*/*.jpg"))
    lines = [f"{name},{number}.5,{-number}" for number, name in enumerate(names)]
    (tmp_path / "more.csv").write_text("\n".join(["path,age,pose", *lines]))
    run(capsys, "data", "pack", faces, tmp_path / "out", "--labels", tmp_path / "more.csv")
    with RecordIOReader(tmp_path / "out" / "train.rec") as reader:
        assert [reader[key].label for key in (1, 4, 6)] == [(0, 0.5, 0), (1, 3.5, -3), (2, 5.5, -5)]
        assert reader[1].flag == 3


def test_merge_keeps_people_apart_or_joins_them(tmp_path, capsys):
    write_folder(tmp_path / "a", {"ann": 2, "bob": 1}, seed=1)
    write_folder(tmp_path / "b", {"ann": 1, "cid": 2}, seed=2)
    sets = [tmp_path / "a", tmp_path / "b"]
    assert run(capsys, "data", "merge", *sets, tmp_path / "separate")["num_identities"] == 4
    source = open_source(tmp_path / "separate")
    assert source.identities == ["ann (set 1)", "bob", "ann (set 2)", "cid"]
    report = run(capsys, "data", "merge", *sets, tmp_path / "joined", "--identities", "by-name", "--format", "tfrecord")
    assert (report["num_images"], report["num_identities"]) == (6, 3)
    joined = open_source(tmp_path / "joined")
    assert sorted(joined.read(np.flatnonzero(joined.labels == 0))) == sorted(
        path.read_bytes() for folder in sets for path in (folder / "ann").iterdir()
    )


def test_filter_by_number_list_and_share(tmp_path, capsys):
    write_folder(tmp_path / "in", {"ann": 4, "bob": 2, "cid": 3, "dan": 3})
    (tmp_path / "list.txt").write_text("cid\nann/1.png\nnobody\ndan/0\n")
    arguments = ["data", "filter", tmp_path / "in", tmp_path / "out", "--format", "folder"]
    report = run(capsys, *arguments, "--min-images", "3", "--exclude", tmp_path / "list.txt")
    assert (report["source_images"], report["num_images"], report["unknown"]) == (12, 3, ["nobody"])
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")) == [
        "ann/0.png",
        "ann/2.png",
        "ann/3.png",
    ]
    kept = []
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        run(capsys, "data", "filter", tmp_path / "in", tmp_path / name, "--sample", "0.5", "--seed", seed)
        source = open_source(tmp_path / name)
        kept.append(source.read(range(source.num_images)))
    assert kept[0] == kept[1] != kept[2]
    assert 0 < len(kept[0]) < 12


def test_what_is_unknown_or_skipped_is_said(tmp_path, capsys):
    write_folder(tmp_path / "in", {"ann": 9, "bob": 2})
    for number in range(7):
        (tmp_path / "in" / "ann" / f"{number}.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("nobody\n")
    arguments = ["data", "filter", str(tmp_path / "in"), str(tmp_path / "out"), "--exclude", str(tmp_path / "list.txt")]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "unknown: 'nobody' is neither a person nor an image of" in captured.err
    assert captured.err.count("skipped ann/") == 5 and "... and 2 more" in captured.err
    lines = dict(line.split(None, 1) for line in captured.out.splitlines())
    assert (lines["num_images"], lines["skipped"], lines["unknown"]) == ("4", "7", "1")
    assert "verifying: 4/4" in captured.err


def test_bad_input_is_one_sentence_and_exit_code_2(faces, tmp_path, capsys):
    out = tmp_path / "out"
    assert "unknown format of a data set 'zip'" in refuse(capsys, "data", "pack", faces, out, "--format", "zip")
    assert "shards is 1 to the number of images, 6" in refuse(capsys, "data", "pack", faces, out, "--shards", "9")
    assert "does not exist" in refuse(capsys, "data", "unpack", tmp_path / "nowhere", out)
    assert "merging needs two data sets and a folder" in refuse(capsys, "data", "merge", faces, out)
    assert "identities is 'separate' or" in refuse(capsys, "data", "merge", faces, faces, out, "--identities", "x")
    assert "no image is left" in refuse(capsys, "data", "filter", faces, out, "--min-images", "3")
    assert "cannot read the list" in refuse(capsys, "data", "filter", faces, out, "--exclude", tmp_path / "none.txt")
    assert "cannot read the list" in refuse(capsys, "data", "pack", faces, out, "--labels", tmp_path / "none.csv")
    (tmp_path / "a.tfrecord").write_bytes(b"no records at all")
    assert "a.tfrecord: record 0 at byte offset 0: damaged" in refuse(capsys, "data", "info", tmp_path / "a.tfrecord")
    assert not out.exists()


def test_quality_stores_aligned_crops(faces, tmp_path, capsys):
    options = ["--landmarks", faces / "landmarks.csv", "--quality", "90", "--size", "48"]
    for form in ("rec", "tfrecord", "folder"):
        report = run(capsys, "data", "pack", faces, tmp_path / form, *options, "--format", form)
        assert report["image_size"] == [48, 48]
        assert list(run(capsys, "data", "info", tmp_path / form)["sampled"]["sizes"]) == ["48x48"]

"""``facetrain data`` and ``facetrain align`` on a handful of generated faces."""

from __future__ import annotations

import json

import pytest

from facetrain.cli import main


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "faces"
    arguments = ["data", "synth", str(folder), "--identities", "3", "--images", "2", "--size", "64", "--workers", "1"]
    assert main([*arguments, "--pairs", "4", "--seed", "1"]) == 0
    return folder


def answer(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_synth_writes_photographs_landmarks_and_pairs(faces, capsys):
    assert len(list(faces.glob("*/*.jpg"))) == 6
    assert len((faces / "pairs.txt").read_text().splitlines()) == 4
    assert (faces / "landmarks.csv").is_file()
    assert main(["data", "synth", str(faces), "--identities", "1", "--images", "1"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_synth_is_a_function_of_its_seed(faces, tmp_path, capsys):
    arguments = ["data", "synth", str(tmp_path / "x"), "--identities", "1", "--images", "1", "--size", "64"]
    capsys.readouterr()
    assert main([*arguments, "--first-identity", "2", "--seed", "1", "--workers", "1", "--json"]) == 0
    assert answer(capsys)["images"] == 1
    (image,) = (tmp_path / "x").glob("*/*.jpg")
    assert image.read_bytes() == (faces / image.relative_to(tmp_path / "x")).read_bytes()


def test_align(faces, tmp_path, capsys):
    assert main(["align", str(faces), str(tmp_path / "crops"), "--size", "48", "--json"]) == 0
    assert answer(capsys)["aligned"] == 6
    assert len(list((tmp_path / "crops").glob("*/*.jpg"))) == 6


def test_align_lists_what_it_skips(faces, tmp_path, capsys):
    lines = (faces / "landmarks.csv").read_text().splitlines()
    table = tmp_path / "some.csv"
    table.write_text("\n".join(lines[:-1]) + "\n")
    assert main(["align", str(faces), str(tmp_path / "crops"), "--landmarks", str(table)]) == 0
    captured = capsys.readouterr()
    assert "skipped synthetic" in captured.err
    assert captured.out.startswith("aligned 5 images, skipped 1")


def test_align_without_landmarks_is_2(tmp_path, capsys):
    assert main(["align", str(tmp_path / "none"), str(tmp_path / "crops")]) == 2
    assert "none" in capsys.readouterr().err


def test_pack_and_info(faces, tmp_path, capsys):
    packed = str(tmp_path / "packed")
    assert main(["data", "pack", str(faces), packed, "--json"]) == 0
    report = answer(capsys)
    assert (report["num_images"], report["num_identities"], report["skipped"]) == (6, 3, [])
    assert main(["data", "info", packed, "--json"]) == 0
    assert answer(capsys)["images"] == 6
    assert main(["data", "info", packed]) == 0
    assert "sampled.sizes.64x64" in capsys.readouterr().out


@pytest.mark.parametrize("quality", ["best", "0", "-1"])
def test_pack_refuses_other_qualities(faces, tmp_path, capsys, quality):
    assert main(["data", "pack", str(faces), str(tmp_path / "packed"), "--quality", quality]) == 2
    assert "quality is 'keep'" in capsys.readouterr().err

"""Alignment of folders."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from facetrain.align import ARCFACE_TEMPLATE, align_face, align_folder, write_landmarks
from facetrain.errors import InputError
from facetrain.images import encode_jpeg, encode_png, read_image
from tests.shared import shared_path

POINTS = 0.5 * ARCFACE_TEMPLATE + 3


def photograph(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "photos"
    for seed, name in enumerate(("ada/0.jpg", "ada/1.png", "bob/0.jpg", "bob/sub/1.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((encode_png if name.endswith("png") else encode_jpeg)(photograph(seed)))
    (folder / "ada" / "notes.txt").write_text("no image")
    return folder


def landmarks(source, **changed):
    images = [path for path in sorted(source.rglob("*.???")) if path.suffix != ".txt"]
    table = {path.relative_to(source).as_posix(): POINTS for path in images}
    table.update({name.replace("__", "/").replace("_jpg", ".jpg"): points for name, points in changed.items()})
    path = source.parent / "landmarks.csv"
    write_landmarks(path, {name: points for name, points in table.items() if points is not None})
    return path


def test_layout_pixels_and_report(source, tmp_path):
    out = tmp_path / "aligned"
    report = align_folder(source, out, landmarks(source), size=48, image_format="png")
    assert (report.aligned, report.skipped, report.landmarks_without_image) == (4, [], 0)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
        "ada/0.png", "ada/1.png", "align_report.json", "bob/0.png", "bob/sub/1.png"
    ]  # fmt: skip
    expected = align_face(photograph(1), np.float32(np.round(POINTS, 3)), 48)
    np.testing.assert_array_equal(read_image(out / "ada/1.png"), expected)
    written = json.loads((out / "align_report.json").read_text())
    assert written["aligned"] == 4 and written["size"] == 48 and written["skipped"] == []


def test_jpeg_is_the_default(source, tmp_path):
    align_folder(source, tmp_path / "aligned", landmarks(source), size=48)
    crop = read_image(tmp_path / "aligned/ada/1.jpg")
    assert np.abs(crop.astype(int) - align_face(photograph(1), POINTS, 48)).mean() < 4


def test_unusable_images_are_skipped_and_listed(source, tmp_path):
    (source / "bob/2.jpg").write_bytes(b"broken")
    table = landmarks(
        source,
        ada__0_jpg=np.full((5, 2), np.nan),
        bob__0_jpg=None,
        bob__2_jpg=POINTS,
        bob__sub__1_jpg=POINTS[[1, 0, 2, 4, 3]],
        eve__0_jpg=POINTS,
    )
    report = align_folder(source, tmp_path / "aligned", table)
    reasons = {skip.image: skip.reason for skip in report.skipped}
    assert report.aligned == 1 and report.landmarks_without_image == 1
    assert list(reasons) == ["ada/0.jpg", "bob/0.jpg", "bob/2.jpg", "bob/sub/1.jpg"]
    assert "unusable landmarks: expected finite" in reasons["ada/0.jpg"]
    assert reasons["bob/0.jpg"] == "without landmarks"
    assert "unreadable: " in reasons["bob/2.jpg"] and "received 6 bytes" in reasons["bob/2.jpg"]
    assert "mirrored" in reasons["bob/sub/1.jpg"]
    assert json.loads((tmp_path / "aligned/align_report.json").read_text())["skipped"][0]["image"] == "ada/0.jpg"
    assert report.summary() == "aligned 1 images, skipped 4 (2 unusable landmarks, 1 without landmarks, 1 unreadable)"


def test_two_images_of_one_name_do_not_overwrite_each_other(source, tmp_path):
    (source / "ada/0.png").write_bytes(encode_png(photograph(9)))
    report = align_folder(source, tmp_path / "aligned", landmarks(source))
    assert [(skip.image, skip.reason.split(":")[0]) for skip in report.skipped] == [("ada/0.png", "same name")]


def test_nothing_remains_after_a_failure(source, tmp_path):
    for path in source.rglob("*.*"):
        if path.suffix in (".jpg", ".png"):
            path.write_bytes(b"broken")
    table = landmarks(source)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="none of 4 images with landmarks could be aligned; first: unreadable"):
        align_folder(source, tmp_path / "aligned", table)
    assert sorted(tmp_path.iterdir()) == before


def test_existing_output_is_kept_unless_allowed(source, tmp_path):
    out = tmp_path / "aligned"
    out.mkdir()
    (out / "precious.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists already"):
        align_folder(source, out, landmarks(source))
    assert (out / "precious.txt").exists()
    align_folder(source, out, landmarks(source), overwrite=True)
    assert not (out / "precious.txt").exists() and (out / "ada/0.jpg").exists()


def test_wrong_arguments(source, tmp_path):
    table = landmarks(source)
    with pytest.raises(InputError, match="missing' is none"):
        align_folder(tmp_path / "missing", tmp_path / "out", table)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        align_folder(tmp_path / "empty", tmp_path / "out", table)
    with pytest.raises(InputError, match="separate folders"):
        align_folder(source, source / "inside", table)
    with pytest.raises(InputError, match="jpg, png, received 'gif'"):
        align_folder(source, tmp_path / "out", table, image_format="gif")
    write_landmarks(table, {"other/7.jpg": POINTS})
    with pytest.raises(InputError, match=r"none of 4 images.*'ada/0.jpg', the table has 'other/7.jpg'"):
        align_folder(source, tmp_path / "out", table)
    assert not (tmp_path / "out").exists()


def test_progress_is_shown_on_request(source, tmp_path, capsys):
    align_folder(source, tmp_path / "aligned", landmarks(source), show_progress=True)
    assert "aligning: 4/4" in capsys.readouterr().err


def test_real_photographs_equal_their_published_crops(tmp_path):
    faces = shared_path("faces/lfw-dev")
    report = align_folder(faces / "raw250", tmp_path / "aligned", faces / "landmarks_250.csv")
    assert report.aligned == 150 and not report.skipped
    for path in list((tmp_path / "aligned").rglob("*.jpg"))[::15]:
        name = path.relative_to(tmp_path / "aligned")
        published = next(p for p in (faces / "train" / name, faces / "val" / name) if p.exists())
        assert np.abs(read_image(path).astype(int) - read_image(published)).mean() < 3

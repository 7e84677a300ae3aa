"""The template and landmark tables."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.align import (
    ARCFACE_TEMPLATE,
    AlignmentError,
    arcface_template,
    find_landmarks,
    is_mirrored,
    read_landmarks,
    write_landmarks,
)
from facetrain.errors import InputError
from tests.shared import shared_path

HEADER = (
    "identity,image,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y,"
    "left_mouth_x,left_mouth_y,right_mouth_x,right_mouth_y"
)
POINTS = "1,2,3,4,5,6,7,8,9,10"


def table(tmp_path, *lines, encoding="utf-8"):
    path = tmp_path / "landmarks.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_template_sizes():
    np.testing.assert_array_equal(arcface_template(), ARCFACE_TEMPLATE)
    np.testing.assert_allclose(arcface_template(224), 2 * ARCFACE_TEMPLATE)
    np.testing.assert_allclose(arcface_template(128), ARCFACE_TEMPLATE + [8, 0])
    np.testing.assert_allclose(arcface_template(256), 2 * ARCFACE_TEMPLATE + [16, 0])
    np.testing.assert_allclose(arcface_template(56), ARCFACE_TEMPLATE / 2)
    with pytest.raises(AlignmentError, match="at least 16"):
        arcface_template(8)


def test_template_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        ARCFACE_TEMPLATE[0, 0] = 0


def test_reads_columns_in_any_order_and_ignores_others(tmp_path):
    names = HEADER.split(",")
    row = "train,10,9,8,7,6,5,4,3,2,1,0001,Ada"
    path = table(tmp_path, ",".join(["split", *names[::-1]]), row, encoding="utf-8-sig")
    read = read_landmarks(path)
    assert list(read) == ["Ada/0001.jpg"]
    assert read["Ada/0001.jpg"].dtype == np.float32
    np.testing.assert_array_equal(read["Ada/0001.jpg"], np.arange(1, 11).reshape(5, 2))


def test_suffix_and_flat_folders(tmp_path):
    read = read_landmarks(table(tmp_path, HEADER, f"a,x.png,{POINTS}", f"a,v1.2,{POINTS}", "", f",y,{POINTS}"))
    assert list(read) == ["a/x.png", "a/v1.2.jpg", "y.jpg"]


def test_find_ignores_the_suffix_of_the_file():
    points = np.zeros((5, 2))
    assert find_landmarks({"a/x.jpg": points}, "a/x.png") is points
    assert find_landmarks({"a/x.png": points}, "a/x.png") is points
    assert find_landmarks({"a/x.jpg": points}, "b/x.png") is None


def test_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    names = ("a/0.jpg", "a/1.png", "b c/d,e.jpg", "flat.jpg")
    written = {name: rng.uniform(-5, 300, (5, 2)).astype(np.float32) for name in names}
    write_landmarks(tmp_path / "out.csv", written)
    read = read_landmarks(tmp_path / "out.csv")
    assert list(read) == list(written)
    for name, points in written.items():
        np.testing.assert_allclose(read[name], points, atol=6e-4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEADER,), "header alone"),
        (("",), "line 1: expected a header"),
        (("identity,image,left_eye_x",), "right_eye_x"),
        ((HEADER, f"a,1,{POINTS}", "a,2,1,2"), "line 3: expected 12 values as in the header, received 4"),
        ((HEADER, "a,1,1,2,3,4,five,6,7,8,9,10"), "line 2: expected a number of pixels as nose_x, received 'five'"),
        ((HEADER, f"a,1,{POINTS}", f"a,1.jpg,{POINTS}"), "line 3: expected each image once, received 'a/1.jpg'"),
        ((HEADER, f"a,,{POINTS}"), "line 2: expected the name of an image"),
    ],
)
def test_malformed_tables(tmp_path, lines, message):
    with pytest.raises(InputError) as caught:
        read_landmarks(table(tmp_path, *lines))
    assert message in str(caught.value)


def test_unreadable_tables(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_landmarks(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xd8\xff\xe0\x00\x10")
    with pytest.raises(InputError, match="UTF-8"):
        read_landmarks(tmp_path / "binary.csv")


def test_mirrored_landmarks_are_recognised():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert not is_mirrored(3 * ARCFACE_TEMPLATE @ turn + 7)
    assert is_mirrored(ARCFACE_TEMPLATE * [-1, 1] @ turn)
    assert is_mirrored(ARCFACE_TEMPLATE[[1, 0, 2, 4, 3]])


def test_shared_photographs_have_landmarks():
    read = read_landmarks(shared_path("faces/lfw-dev/landmarks_250.csv"))
    assert len(read) == 2886 + 782
    np.testing.assert_allclose(read["Aaron_Peirsol/0001.jpg"][0], [101.53, 111.72])
    assert not any(is_mirrored(points) for points in read.values())

"""Lists of image files: what they name is what is read, and they cannot name what lies elsewhere."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest

from facetrain.align import align_face, write_landmarks
from facetrain.data.list_source import CsvSource, LstSource
from facetrain.data.recordio import RecordIOReader
from facetrain.data.sources import open_source
from facetrain.errors import InputError
from facetrain.images import ImageError, decode_image
from tests.data.faces import write_folder
from tests.shared import shared_path

POINTS = np.array([[20, 26], [40, 25], [31, 36], [22, 46], [39, 45]], np.float32)
HEADER = "path,identity," + ",".join(f"x{i},y{i}" for i in range(1, 6))


@pytest.fixture
def images(tmp_path):
    return write_folder(tmp_path, {"ann": 2, "zoe": 3}, size=64)


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def lst(tmp_path, *lines):
    return write(tmp_path / "train.lst", *lines)


def test_a_lst_file(images, tmp_path):
    path = lst(tmp_path, "0\t7.000000\tzoe/1.png", "5\t3\tann/0.png", "", "2\t7\tzoe/0.png")
    source = open_source(path)
    assert isinstance(source, LstSource)
    assert (source.identities, source.labels.tolist()) == (["3", "7"], [1, 0, 1])
    assert source.labels.dtype == np.int32 and source.extra_labels is None
    for data, name in zip(source.read([0, 1, 2]), ["zoe/1.png", "ann/0.png", "zoe/0.png"]):
        np.testing.assert_array_equal(decode_image(data), images[name])
    assert source.names(1) == "ann/0.png" and source.key(1) == "3/0"


def test_further_labels_and_names_beside(images, tmp_path):
    write(tmp_path / "identities.txt", "3\tAnn", "7\tZoe")
    source = LstSource(lst(tmp_path, "0\t7\t0.5\t-1\tzoe/1.png", "1\t3\t0.25\t2\tann/0.png"))
    assert source.identities == ["Ann", "Zoe"]
    assert source.extra_labels.tolist() == [[0.5, -1.0], [0.25, 2.0]] and source.extra_labels.dtype == np.float32
    assert source.extra_names == ["label1", "label2"]


@pytest.mark.parametrize("form", ["single", "multilabel"])
def test_lists_that_mxnet_packed(tmp_path, form):
    """The list and the record file that im2rec made of it say the same."""
    folder = shared_path("goldens/recordio/im2rec")
    lines = (folder / f"{form}.lst").read_text().splitlines()
    for line in lines:
        path = tmp_path / line.split("\t")[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(line.encode())
    source = LstSource(folder / f"{form}.lst", root=tmp_path)
    labels = [int(name) for name in source.identities]
    assert source.read(range(source.num_images)) == [line.encode() for line in lines]
    with RecordIOReader(folder / f"{form}.rec") as reader:
        for index, line in enumerate(lines):
            label = reader[int(line.split("\t")[0])].label
            expected = label if isinstance(label, tuple) else (label,)
            further = [] if source.extra_labels is None else source.extra_labels[index].tolist()
            assert [labels[source.labels[index]], *further] == list(expected)


@pytest.mark.parametrize(
    "line", ["0\tzoe/0.png", "zoe/0.png", "0\tx\tzoe/0.png", "0\t1.5\tzoe/0.png", "0\t-1\tzoe/0.png", "0\t\tzoe/0.png",
             "0\tnan\tzoe/0.png", "0\tinf\tzoe/0.png", "0\t1e300\tzoe/0.png", "0\t1\t2\tzoe/0.png"],
)  # fmt: skip
def test_malformed_lines_are_named(images, tmp_path, line):
    with pytest.raises(InputError, match="train.lst, line 2: expected index, 1 labels .* and path with tabs between"):
        LstSource(lst(tmp_path, "0\t1\tzoe/1.png", line))


def test_empty_lists_and_missing_lists(tmp_path):
    with pytest.raises(InputError, match="expected at least one image, the list has none"):
        LstSource(lst(tmp_path, "", ""))
    with pytest.raises(InputError, match="cannot read the list .*nowhere.lst'.* No such file"):
        LstSource(tmp_path / "nowhere.lst")
    (tmp_path / "train.lst").write_bytes(b"0\t1\t\xff\xfe.png\n")
    with pytest.raises(InputError, match="expected a list in UTF-8"):
        LstSource(tmp_path / "train.lst")
    with pytest.raises(InputError, match="expected at least one image"):
        CsvSource(write(tmp_path / "a.csv", "path,identity"))


@pytest.mark.parametrize("name", ["../secret.png", "ann/../../secret.png", "..\\secret.png"])
def test_paths_that_leave_the_root_are_refused(images, tmp_path, name):
    (tmp_path.parent / "secret.png").write_bytes(b"x")
    with pytest.raises(InputError, match="train.lst, line 1: the path .* leaves the folder of the data"):
        LstSource(lst(tmp_path, f"0\t1\t{name}"))
    with pytest.raises(InputError, match="list.csv, line 2: the path .* leaves the folder of the data"):
        CsvSource(write(tmp_path / "list.csv", "path,identity", f"{name},x"))


def test_absolute_paths_where_they_are_allowed(images, tmp_path):
    path = lst(tmp_path / "ann", f"0\t1\t{tmp_path / 'zoe' / '0.png'}")
    with pytest.raises(InputError, match="is absolute; make it relative to the root, or set allow_absolute"):
        LstSource(path)
    source = LstSource(path, allow_absolute=True)
    np.testing.assert_array_equal(decode_image(source.read([0])[0]), images["zoe/0.png"])
    assert source.key(0) == "1/0"


def test_missing_files_are_named_or_left_out(images, tmp_path, caplog):
    path = lst(tmp_path, "0\t1\tzoe/0.png", "1\t2\tzoe/9.png", "2\t3\tann/0.png", "3\t2\tnobody/0.png")
    with pytest.raises(InputError, match="line 2: the image 'zoe/9.png' is not below .*2 of 4 images are missing"):
        LstSource(path)
    with caplog.at_level(logging.WARNING):
        source = LstSource(path, on_missing="skip")
    assert "zoe/9.png" in caplog.text
    assert (source.identities, source.labels.tolist()) == (["1", "3"], [0, 1])
    with pytest.raises(InputError, match="give the right root"):
        LstSource(path, root=tmp_path / "elsewhere", on_missing="skip")
    with pytest.raises(InputError, match="on_missing is 'fail' or 'skip', received 'ignore'"):
        LstSource(path, on_missing="ignore")


def test_a_file_that_goes_later_is_an_image_error(images, tmp_path):
    source = LstSource(lst(tmp_path, "0\t1\tzoe/0.png"))
    (tmp_path / "zoe" / "0.png").unlink()
    with pytest.raises(ImageError, match="zoe/0.png.*No such file"):
        source.read([0])


def test_a_csv_table(images, tmp_path):
    path = write(
        tmp_path / "list.csv",
        "identity,age,path,note,pose",
        '"Zoë, the first",31,zoe/1.png,good,0.5',
        "Ann,,ann/0.png,12,-2",
        '"Zoë, the first",32,zoe/0.png,,3',
    )
    source = open_source(path)
    assert isinstance(source, CsvSource)
    assert (source.identities, source.labels.tolist()) == (["Ann", "Zoë, the first"], [1, 0, 1])
    np.testing.assert_array_equal(decode_image(source.read([2])[0]), images["zoe/0.png"])
    assert source.extra_names == ["age", "pose"]  # a column with a word is no label
    np.testing.assert_array_equal(source.extra_labels, np.array([[31, 0.5], [np.nan, -2], [32, 3]], np.float32))
    assert source.landmarks is None and source.key(0) == "Zoë, the first/1"


def test_landmarks_in_the_table(images, tmp_path):
    numbers = ",".join(str(value) for value in POINTS.ravel())
    path = write(tmp_path / "list.csv", HEADER, f"zoe/0.png,zoe,{numbers}", "ann/0.png,ann" + "," * 10)
    source = CsvSource(path)
    np.testing.assert_array_equal(source.landmarks[0], POINTS)
    assert np.isnan(source.landmarks[1]).all() and source.extra_labels is None
    np.testing.assert_array_equal(source.crop(0, 32), align_face(images["zoe/0.png"], POINTS, 32))
    with pytest.raises(InputError, match="received none for this image"):
        source.crop(1, 32)


@pytest.mark.parametrize("kind", ["lst", "csv"])
def test_landmarks_in_a_table_of_their_own(images, tmp_path, kind):
    write_landmarks(tmp_path / "points.csv", {"zoe/0.png": POINTS})
    if kind == "lst":
        path = lst(tmp_path, "0\t1\tzoe/0.png")
    else:
        path = write(tmp_path / "list.csv", "path,identity", "zoe/0.png,zoe")
    source = open_source({"kind": kind, "path": path, "landmarks": tmp_path / "points.csv"})
    np.testing.assert_allclose(source.landmarks, POINTS[None])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,identity", "zoe/0.png,a"], "line 1: expected a header with the columns path and identity"),
        (["path,identity,path", "zoe/0.png,a,b"], "line 1: expected a header"),
        (["path,identity", "zoe/0.png"], "line 2: expected 2 values with a path and an identity"),
        (["path,identity", "zoe/0.png,a,b"], "line 2: expected 2 values"),
        (["path,identity", "zoe/0.png,"], "line 2: expected 2 values with a path and an identity"),
        (["path,identity", ",a"], "line 2: expected the path of an image, received ''"),
        ([HEADER, "zoe/0.png,a,1,2,3,4,5,6,7,8,9,x"], "line 2: expected a number as y5, received 'x'"),
    ],
)
def test_malformed_tables_are_named(images, tmp_path, lines, message):
    with pytest.raises(InputError, match=f"list.csv, {message}"):
        CsvSource(write(tmp_path / "list.csv", *lines))


def test_fingerprint_follows_every_change(images, tmp_path):
    def fingerprint(*lines):
        return CsvSource(write(tmp_path / "list.csv", *lines)).fingerprint()

    base = ["path,identity,a", "zoe/0.png,zoe,1", "ann/0.png,ann,2"]
    prints = [fingerprint(*base), fingerprint(base[0], base[2], base[1])]
    prints.append(fingerprint(*base[:2], "ann/1.png,ann,2"))
    prints.append(fingerprint(*base[:2], "ann/0.png,zoe,2"))
    prints.append(fingerprint(*base[:2], "ann/0.png,ann,3"))
    assert fingerprint(*base) == prints[0]
    os.utime(tmp_path / "zoe" / "0.png", ns=(0, 1))
    prints.append(fingerprint(*base))
    assert len(set(prints)) == len(prints)

"""Generated data sets on disk."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from facetrain.align import align_folder, read_landmarks
from facetrain.data.synth_folder import draw_pairs, write_synthetic
from facetrain.data.synthetic import render_face
from facetrain.errors import InputError
from facetrain.images import read_image


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout_and_content(tmp_path):
    out = write_synthetic(tmp_path / "faces", 3, 2, seed=4, size=48, first_identity=10, num_pairs=6)
    names = [f"synthetic_{i:06d}/{j:04d}.jpg" for i in (10, 11, 12) for j in (0, 1)]
    assert sorted(files(out)) == sorted([*names, "landmarks.csv", "pairs.txt"])
    image, points = render_face(4, 11, 1, 48)
    assert np.abs(read_image(out / names[3]).astype(int) - image).mean() < 5
    table = read_landmarks(out / "landmarks.csv")
    assert list(table) == names
    np.testing.assert_allclose(table[names[3]], points, atol=6e-4)
    pairs = [line.split("\t") for line in (out / "pairs.txt").read_text().splitlines()]
    assert [same for same, _, _ in pairs] == ["1", "0"] * 3
    assert all((a.split("/")[0] == b.split("/")[0]) == (same == "1") and {a, b} <= set(names) for same, a, b in pairs)


def test_result_can_be_aligned(tmp_path):
    out = write_synthetic(tmp_path / "faces", 2, 2, size=64)
    assert align_folder(out, tmp_path / "aligned", out / "landmarks.csv", size=32).aligned == 4


def test_processes_write_the_same_files(tmp_path):
    one = write_synthetic(tmp_path / "one", 5, 1, size=32)
    two = write_synthetic(tmp_path / "two", 5, 1, size=32, workers=2)
    assert files(one) == files(two)


def test_existing_folder_is_kept_unless_allowed(tmp_path):
    out = tmp_path / "faces"
    out.mkdir()
    (out / "precious.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists already"):
        write_synthetic(out, 1, 1, size=32)
    assert (out / "precious.txt").exists()
    write_synthetic(out, 1, 1, size=32, overwrite=True)
    assert not (out / "precious.txt").exists()


def test_interrupted_work_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facetrain.data.synth_folder.encode_face", fail)
    with pytest.raises(OSError, match="No space"):
        write_synthetic(tmp_path / "faces", 1, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changed", [{"identities": 0}, {"images": 0}, {"seed": -1}, {"size": 8}, {"num_pairs": -2}])
def test_numbers_out_of_range(tmp_path, changed):
    with pytest.raises(InputError, match="need identities >= 1"):
        write_synthetic(tmp_path / "faces", **{"identities": 1, "images": 1, **changed})


def test_more_pairs_than_there_are(tmp_path):
    with pytest.raises(InputError, match="3 pairs of one person and 12 of two, but 8 pairs need 4 and 4"):
        write_synthetic(tmp_path / "faces", 3, 2, num_pairs=8)
    assert not list(tmp_path.iterdir())


def test_pairs_are_distinct_and_even():
    pairs = draw_pairs(identities=10, images=6, num_pairs=200, seed=1)
    person = pairs // 6
    np.testing.assert_array_equal(person[:, 0] == person[:, 1], np.arange(200) % 2 == 0)
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == 200 and (pairs[:, 0] != pairs[:, 1]).all()
    assert set(Counter(person[0::2, 0].tolist()).values()) == {10}
    np.testing.assert_array_equal(pairs, draw_pairs(10, 6, 200, seed=1))
    assert (pairs != draw_pairs(10, 6, 200, seed=2)).any()


def test_all_pairs_can_be_drawn():
    pairs = draw_pairs(identities=4, images=3, num_pairs=24, seed=0)
    assert len({tuple(pair) for pair in pairs[0::2].tolist()}) == 12
    assert draw_pairs(4, 3, 0).shape == (0, 2)

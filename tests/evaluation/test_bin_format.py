from __future__ import annotations

import hashlib
import json
import os
import pickle

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.evaluation import BinError, PairSet, load_bin, save_bin
from tests.evaluation.helpers import picture_pairs
from tests.shared import shared_path

DIALECTS = [
    "np2_proto2_uint8", "py2_proto0_str", "py2_proto2_str", "py2_proto2_str_purepickle", "py2_proto2_uint8",
    "py3_proto2_bytes", "py3_proto2_uint8", "py3_proto4_bytes", "py3_proto4_mxnd_like_tuple",
    "py3_proto4_uint8_npsame", "py3_proto5_bytes",
]  # fmt: skip
BAD = {
    "bad_empty": "it is empty",
    "bad_len_mismatch": "2 pairs need 4 images, it has 5",
    "bad_one_jpeg": "image 1 cannot be decoded",
    "bad_text": "no pickle",
    "bad_truncated": "cut short",
    "bad_zero_pairs": "no pairs",
    "hostile_eval": "builtins.eval",
}


def write(tmp_path, content, protocol=2):
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_images_and_flags(name):
    reference = json.loads(shared_path("goldens/verif/manifest.json").read_text())["_reference"]
    pair_set = load_bin(shared_path(f"goldens/verif/{name}.bin"))
    assert [hashlib.sha256(image).hexdigest()[:32] for image in pair_set.images] == reference["image_sha256_32"]
    assert pair_set.is_same.tolist() == reference["issame"]
    assert pair_set.pairs.tolist() == [[2 * i, 2 * i + 1] for i in range(20)]
    assert all(isinstance(image, bytes) for image in pair_set.images) and pair_set.name == name


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_and_hostile_goldens_are_refused_in_one_sentence(name):
    path = shared_path(f"goldens/verif/{name}.bin")
    with pytest.raises(BinError) as caught:
        load_bin(path)
    message = str(caught.value)
    assert BAD[name] in message and str(path) in message and "\n" not in message
    assert isinstance(caught.value, InputError)


def test_what_executes_elsewhere_does_not_here(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sentinel"),)

    path = write(tmp_path, ([Hostile(), b""], [True]))
    with pytest.raises(BinError, match="mkdir"):
        load_bin(path)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([b"a"], "it holds a list of 1"),
        (7, "it holds the number 7"),
        ((b"ab", [True]), "begins with a bytes"),
        (([b"a", b"b"], b"\x01"), "its second part"),
        (([b"a", b"b"], [2]), "flag 0 should be True, False, 0 or 1, it is the number 2"),
        (([b"a", b"b"], ["1"]), "flag 0"),
        (([b"a", 5], [True]), "image 1 should be encoded"),
        (([b"a", np.zeros((4, 4, 3), np.uint8)], [True]), "array of shape [4, 4, 3]"),
        (([b"a", np.zeros(4, np.int32)], [True]), "type int32"),
    ],
)
def test_other_content_is_refused_by_name(tmp_path, content, part):
    with pytest.raises(BinError) as caught:
        load_bin(write(tmp_path, content), check_images=False)
    assert part in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BinError, match="no.bin"):
        load_bin(tmp_path / "no.bin")


def test_saved_sets_come_back_and_ordinary_pickle_reads_them_too(tmp_path):
    pair_set = picture_pairs()
    save_bin(tmp_path / "own.bin", pair_set)
    read = load_bin(tmp_path / "own.bin")
    expected = [pair_set.images[i] for i in pair_set.pairs.ravel()]
    assert read.images == expected and read.is_same.tolist() == pair_set.is_same.tolist()
    data = (tmp_path / "own.bin").read_bytes()
    assert pickle.loads(data) == (expected, pair_set.is_same.tolist()) and data[1] == 2
    assert read.deduplicated().images == pair_set.images[: len(read.deduplicated().images)]


def test_an_image_of_many_pairs_is_stored_once(tmp_path):
    image = bytes(range(128)) * 100
    save_bin(tmp_path / "own.bin", PairSet([image], [1] * 50, [[0, 0]] * 50))
    assert (tmp_path / "own.bin").stat().st_size < 2 * len(image)
    assert load_bin(tmp_path / "own.bin", check_images=False).images == [image] * 100


def test_a_set_without_pairs_is_not_written(tmp_path):
    with pytest.raises(InputError, match="at least one pair"):
        save_bin(tmp_path / "own.bin", PairSet([], []))
    assert not list(tmp_path.iterdir())

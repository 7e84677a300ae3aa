from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.convert.torch_file import read_torch_file
from facetrain.errors import InputError
from tests.convert.writers import (
    Storage,
    Tensor,
    make_tensor,
    tensors_of,
    torch_pickle,
    write_safetensors,
    write_torch_legacy,
    write_torch_zip,
)
from tests.shared import shared_path

STATE = {
    "conv.weight": np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn.bias": np.asarray([0.5, -1.25], np.float32),
    "bn.num_batches_tracked": np.asarray(5, np.int64),
}


def save_zip(path, state, kind="f4"):
    return write_torch_zip(path, tensors_of(state, kind))


def save_legacy(path, state, kind="f4"):
    return write_torch_legacy(path, tensors_of(state, kind))


FORMATS = {"zip": save_zip, "legacy": save_legacy, "safetensors": write_safetensors}


@pytest.fixture(params=FORMATS)
def save(request):
    return FORMATS[request.param]


@pytest.mark.parametrize(("kind", "digits"), [("f4", 24), ("f8", 24), ("f2", 11), ("bfloat16", 7)])
def test_all_formats_and_types_come_back(save, kind, digits, tmp_path):
    found = read_torch_file(save(tmp_path / "x.pth", STATE, kind))
    assert list(found) == list(STATE)
    for name, value in STATE.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name].astype(np.float64), value, rtol=2.0 ** (1 - digits))


def test_every_cut_is_refused(save, tmp_path):
    whole = save(tmp_path / "whole", STATE).read_bytes()
    path = tmp_path / "cut"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut"):
            read_torch_file(path)


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_bytes_after_the_end_are_refused(kind, tmp_path):
    path = FORMATS[kind](tmp_path / "x", STATE)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="damaged"):
        read_torch_file(path)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255), kind=st.sampled_from(sorted(FORMATS)))
def test_a_flipped_byte_gives_tensors_or_one_sentence(place, bits, kind, tmp_path_factory):
    path = FORMATS[kind](tmp_path_factory.mktemp("flip") / "x", STATE)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= bits
    path.write_bytes(data)
    try:
        found = read_torch_file(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(value, np.ndarray) for value in found.values())


def test_views_share_a_storage(tmp_path):
    storage = Storage("0", "f4", np.arange(12, dtype="<f4").tobytes(), 12)
    state = {"turned": Tensor(storage, (3, 2), (1, 3), 3), "row": Tensor(storage, (4,), (1,), 8)}
    found = read_torch_file(write_torch_zip(tmp_path / "x", state))
    np.testing.assert_array_equal(found["turned"], [[3, 6], [4, 7], [5, 8]])
    np.testing.assert_array_equal(found["row"], [8, 9, 10, 11])


def test_parameters_and_nested_dictionaries(tmp_path):
    weight = make_tensor(np.ones((2, 2), np.float32), "0", parameter=True)
    checkpoint = {"epoch": 3, "lr": 0.1, "names": ["a", None, True], "state": {"module": {"w": weight}}, 5: [weight]}
    found = read_torch_file(write_torch_zip(tmp_path / "x", checkpoint))
    assert sorted(found) == ["5.0", "state.module.w"]


def test_big_endian_storages(tmp_path):
    path = write_torch_zip(tmp_path / "x", tensors_of(STATE, order=">"), order=">")
    np.testing.assert_array_equal(read_torch_file(path)["conv.weight"], STATE["conv.weight"])


class Plain:
    """An object that a pickle makes by its class."""


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
def test_code_is_refused_and_not_run(write, tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(InputError, match=r"asks for posix\.mkdir.*nothing in it was run"):
        read_torch_file(write(tmp_path / "x", {"w": Hostile(os.mkdir, str(mark))}))
    assert not mark.exists()


def test_the_golden_hostile_file_is_refused(monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: pytest.fail("the file ran code"))
    with pytest.raises(InputError, match=r"hostile\.pth: it asks for posix\.getcwd"):
        read_torch_file(shared_path("goldens/weights/hostile.pth"))


@pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
def test_whole_objects_are_refused_by_name(write, tmp_path):
    with pytest.raises(InputError, match=r"asks for pathlib\.PurePosixPath.*model\.state_dict"):
        read_torch_file(write(tmp_path / "x", {"w": PurePosixPath("a")}))
    with pytest.raises(InputError, match=r"asks for .*\.Plain"):
        read_torch_file(write(tmp_path / "x", {"w": Plain()}))


def test_a_new_object_of_a_stand_in_is_refused(tmp_path):
    program = b"\x80\x02ccollections\nOrderedDict\n)\x81."
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("m/data.pkl", program)
    with pytest.raises(InputError, match="damaged"):
        read_torch_file(tmp_path / "x")


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(name, b"")
    with pytest.raises(InputError, match="program of TorchScript"):
        read_torch_file(tmp_path / "x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"w": Tensor(Storage("0", "f4", b"\0" * 8, 2), (3,), (1,))}, "shape .3. in 2 elements"),
        ({"w": Tensor(Storage("0", "f4", b"\0" * 8, 2), (1 << 30,), (0,))}, "in 2 elements"),
        ({"w": Tensor(Storage("0", "f4", b"\0" * 8, 2), (2,), (1,), 1)}, "in 2 elements"),
        ({"w": Tensor(Storage("0", "f4", b"\0" * 8, 2), (2,), (-1,), 1)}, "unknown way"),
        ({"w": Tensor(Storage("0", "f4", b"\0" * 8, 2), (2, 1), (1,))}, "unknown way"),
        ({"w": Tensor(Storage("0", "f4", b"\0" * 4, 2), (2,), (1,))}, "cut|should have 8 bytes"),
        ({"w": 3}, "no tensor"),
        ({"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"w": 1}}}}}}}}}}, "nested"),
    ],
)
@pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])
def test_impossible_descriptions(write, value, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_torch_file(write(tmp_path / "x", value))


def test_one_dictionary_named_over_and_over_ends(tmp_path):
    node = {"w": make_tensor(np.ones(1, np.float32), "0")}
    for _ in range(7):
        node = {str(key): node for key in range(40)}
    with pytest.raises(InputError, match="more than a checkpoint"):
        read_torch_file(write_torch_zip(tmp_path / "x", node))


def test_a_tower_of_tuples_is_refused_before_it_is_hashed(tmp_path):
    tower = b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("m/data.pkl", tower)
    with pytest.raises(InputError, match="tensors"):
        read_torch_file(tmp_path / "x")


def test_a_compressed_archive_is_refused(tmp_path):
    path = write_torch_zip(tmp_path / "x", tensors_of(STATE), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        read_torch_file(path)


def test_other_archives_and_pickles_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([1, 2], 2))
    (tmp_path / "c.txt").write_text("weights?")
    for name, message in (("a.zip", "data.pkl"), ("b.pkl", "not one of torch.save"), ("c.txt", "safetensors")):
        with pytest.raises(InputError, match=message):
            read_torch_file(tmp_path / name)
    with pytest.raises(InputError, match="found none"):
        read_torch_file(tmp_path / "absent.pth")


def test_a_missing_storage_is_refused(tmp_path):
    data, _ = torch_pickle(tensors_of(STATE))
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("m/data.pkl", data)
    with pytest.raises(InputError, match="missing"):
        read_torch_file(tmp_path / "x")


def test_a_legacy_storage_of_a_huge_length_is_refused(tmp_path):
    path = save_legacy(tmp_path / "x", {"w": np.zeros(2, np.float32)})
    data = bytearray(path.read_bytes())
    data[-16:-8] = struct.pack("<Q", 1 << 62)
    path.write_bytes(data)
    with pytest.raises(InputError, match="cut or damaged"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}, "unknown way"),
        ({"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}, "cut or damaged"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "needs 12 bytes"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "needs 8 bytes"),
        ({"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}, "unknown way"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "unknown way"),
        ({"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}, "unknown way"),
        (7, "unknown way"),
    ],
)
def test_impossible_safetensors(entry, message, tmp_path):
    text = json.dumps({"w": entry}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(InputError, match=message):
        read_torch_file(tmp_path / "x")


def test_safetensors_of_a_huge_or_deep_header(tmp_path):
    (tmp_path / "huge").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    deep = b'{"a":' + b"[" * 100_000
    (tmp_path / "deep").write_bytes(struct.pack("<Q", len(deep)) + deep)
    for name in ("huge", "deep"):
        with pytest.raises(InputError, match="cut or damaged|no JSON"):
            read_torch_file(tmp_path / name)

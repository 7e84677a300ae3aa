"""Array files against NumPy's own reader and writer, and the memory they take."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from facetrain.models import array_file
from facetrain.models.array_file import ArrayFile, VariableArray, assign, write_arrays

DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64])
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, max_side=7, min_side=0)


@settings(max_examples=60, deadline=None)
@given(DTYPES.flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES)), st.sampled_from([8, 40, 1 << 20]))
def test_numpy_reads_what_is_written_and_the_other_way_round(tmp_path_factory, value, block_bytes):
    folder = tmp_path_factory.mktemp("arrays")
    before, array_file.BLOCK_BYTES = array_file.BLOCK_BYTES, block_bytes
    try:
        write_arrays(folder / "ours.npz", {"a/b": value, "variable": VariableArray(tf.Variable(value))})
        with np.load(folder / "ours.npz", allow_pickle=False) as archive:
            assert set(archive.files) == {"a/b", "variable"}
            for name in archive.files:
                np.testing.assert_array_equal(archive[name], value)
                assert archive[name].dtype == value.dtype and archive[name].shape == value.shape
        np.savez(folder / "theirs.npz", value=value)
        stored = ArrayFile(folder / "theirs.npz")["value"]
        assert stored.shape == value.shape and stored.dtype == value.dtype
        np.testing.assert_array_equal(stored, value)
        blocks = [block for _, block in stored.blocks()]
        if value.ndim and len(value):
            np.testing.assert_array_equal(np.concatenate(blocks), value)
    finally:
        array_file.BLOCK_BYTES = before


def test_what_is_no_plain_array_is_refused(tmp_path):
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], object))
    with pytest.raises(ValueError, match="plain array"):
        ArrayFile(tmp_path / "pickle.npz")
    np.savez(tmp_path / "fortran.npz", x=np.asfortranarray(np.ones((2, 3))))
    with pytest.raises(ValueError, match="plain array"):
        ArrayFile(tmp_path / "fortran.npz")


def test_a_header_that_promises_more_than_there_is_is_refused_before_anything_is_allocated(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((10, 10)))
    content = (tmp_path / "x.npy").read_bytes().replace(b"(10, 10), }        ", b"(10, 99999999), }  ")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ValueError, match="bytes for an array"):
        ArrayFile(tmp_path / "x.npz")


def test_rows_of_some_variables_are_assigned_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(array_file, "BLOCK_BYTES", 24)
    value = np.arange(20, dtype=np.float32).reshape(10, 2)
    write_arrays(tmp_path / "x.npz", {"x": value})
    variable = tf.Variable(tf.zeros([10, 2]))
    variable.updates_rows_only = True
    assign(variable, ArrayFile(tmp_path / "x.npz")["x"])
    np.testing.assert_array_equal(variable.numpy(), value)


_MEMORY = """
import sys
from pathlib import Path
import tensorflow as tf
from facetrain.models.array_file import ArrayFile, VariableArray, assign, write_arrays

def peak():
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))

variable = tf.Variable(tf.ones([400_000, 256]), trainable=False)
variable.updates_rows_only = True
variable.scatter_update(tf.IndexedSlices(tf.zeros([1, 256]), [0]))  # as training does; from now on a read is a copy
before = peak()
write_arrays(sys.argv[1], {"x": VariableArray(variable)})
assign(variable, ArrayFile(sys.argv[1])["x"])
print(peak() - before)
"""


@pytest.mark.slow
def test_saving_and_loading_a_large_variable_takes_little_more_than_a_block(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path / "x.npz")],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    # The variable has 400,000 kB; a block of 16,384 is held a few times on its way.
    assert int(done.stdout.split()[-1]) < 130_000

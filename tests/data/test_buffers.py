"""Memory of batches: used again when nobody holds it, and never before."""

from __future__ import annotations

import tracemalloc

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from facetrain.data.buffers import BatchBuffers


def address(array):
    return array.__array_interface__["data"][0]


def test_is_used_again_once_the_last_view_is_gone():
    buffers = BatchBuffers()
    array = buffers.empty((2, 4, 4, 3))
    assert array.shape == (2, 4, 4, 3) and array.dtype == np.uint8 and array.flags.writeable
    place, view = address(array), array[1:, ::2, 1:]
    del array
    assert address(buffers.empty((2, 4, 4, 3))) != place
    del view
    assert address(buffers.empty((2, 4, 4, 3))) == place
    assert address(buffers.empty((2, 4, 4, 6))) != place


@given(st.lists(st.tuples(st.sampled_from([(1,), (3, 5), (2, 64), (0, 3)]), st.integers(0, 5)), max_size=40))
def test_arrays_that_are_held_keep_their_content(steps):
    buffers, held = BatchBuffers(), []
    for number, (shape, dropped) in enumerate(steps):
        array = buffers.empty(shape)
        assert address(array) % 64 == 0 or not array.size
        array[...] = number
        held.append((number, array[..., None].T))
        del held[:dropped]
        assert all((view == content).all() for content, view in held)


def test_many_sizes_share_the_memory_of_the_largest():
    buffers = BatchBuffers()
    tracemalloc.start()
    for number in [*range(1, 100), *range(100, 0, -1)]:
        buffers.empty((number, 10_000))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 1_000_000 <= held < 2_000_000


def test_a_tensor_holds_what_it_was_made_of():
    buffers = BatchBuffers()
    kept = []
    for number in range(20):
        array = buffers.empty((64, 32))
        array[...] = number
        kept += [tf.numpy_function(lambda one=array: one, [], tf.uint8)]
        del array
        if number % 3 == 0:
            kept.pop(0)
    found = [set(tensor.numpy().ravel().tolist()) for tensor in kept]
    assert all(len(values) == 1 for values in found) and len({min(values) for values in found}) == len(kept) == 13

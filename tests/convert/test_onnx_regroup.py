"""Reshaping in another order of axes, against NumPy."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.convert.onnx_regroup import lies_in, regroup
from facetrain.convert.onnx_tensors import Folded


@st.composite
def reshapes(draw):
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=5))

    def merged():
        sizes, current = [], 1
        for factor in factors:
            current *= factor
            if draw(st.booleans()):
                sizes.append(current)
                current = 1
            if draw(st.integers(0, 4)) == 0:
                sizes.append(1)
        return [*sizes, current] if current > 1 or not sizes else sizes

    dims, target = merged(), merged()
    return dims, draw(st.permutations(range(len(dims)))), target


@settings(max_examples=100, deadline=None)
@given(reshapes())
def test_the_result_is_that_of_numpy(case):
    dims, axes, target = case
    meant = np.arange(prod(dims)).reshape(dims)
    lying = meant.transpose(axes)
    order, result = regroup(dims, axes, target)
    assert sorted(order) == [axis for axis, size in enumerate(dims) if size > 1]
    assert sorted(result) == list(range(len(target)))
    units = [axis for axis in axes if axis not in order]
    moved = lying if lies_in(dims, axes, order) else meant.transpose([*units, *order])
    received = moved.reshape([target[axis] for axis in result])
    np.testing.assert_array_equal(received, meant.reshape(target).transpose(result))


def test_nothing_moves_where_it_need_not():
    spatial = (1, 2, 0)  # channels last
    assert lies_in((6, 4, 5), spatial, regroup((6, 4, 5), spatial, (6, 20)).order), "rows and columns are merged"
    assert regroup((6, 4, 5), spatial, (2, 3, 4, 5)) == ((1, 2, 0), (2, 3, 0, 1)), "channels are split"
    assert regroup((6,), (0,), (6, 1, 1)).axes == (1, 2, 0), "a vector becomes a map with channels last"
    assert not lies_in((6, 4, 5), spatial, regroup((6, 4, 5), spatial, (120,)).order)


def test_order_of_flattened_elements():
    meant = np.arange(24).reshape(2, 3, 4)
    folded = Folded((3, 4, 2), (1, 2, 0))
    np.testing.assert_array_equal(meant.reshape(-1)[folded.order()], meant.transpose(1, 2, 0).reshape(-1))

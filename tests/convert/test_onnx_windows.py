"""Windows of convolutions and pooling, against a loop over their starts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_tensors import Tensor
from facetrain.convert.onnx_windows import read_window
from facetrain.errors import InputError
from tests.convert.onnx_helpers import Maker, judged

small = st.integers(1, 4)


def node(**attributes) -> OnnxNode:
    return OnnxNode("MaxPool", "pool", ("x",), ("y",), attributes)


def image(height: int, width: int) -> Tensor:
    return Tensor(np.zeros((1, height, width, 3)), (0, 2, 3, 1))


def starts(size, kernel, stride, dilation, before, after, ceil):
    """Where windows start, as PyTorch and ONNX define it, one after the other."""
    extent, found, start = (kernel - 1) * dilation + 1, [], -before
    while start + extent <= size + after:
        found.append(start)
        start += stride
    # One more, cut by less than a stride at the end, if it starts on the map or in the padding before it.
    if ceil and start < size and 0 < start + extent - (size + after) < stride:
        found.append(start)
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), small, small, st.integers(1, 2), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_explicit_pads(size, kernel, stride, dilation, before, after, ceil):
    before, after = min(before, kernel - 1), min(after, kernel - 1)
    expected = starts(size, kernel, stride, dilation, before, after, ceil)
    attributes = {"pads": [before, 0, after, 0], "strides": [stride, 1], "dilations": [dilation, 1]}
    described = node(ceil_mode=int(ceil), **attributes)
    if not expected:
        with pytest.raises(InputError, match="nothing is left"):
            read_window(described, image(size, 5), (kernel, 1))
        return
    window = read_window(described, image(size, 5), (kernel, 1))
    assert window.results == (len(expected), 5)
    reach = expected[-1] + (kernel - 1) * dilation + 1
    assert window.pads[0] == (before, max(after, reach - size)) and window.pads[1] == (0, 0)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), small, small, st.integers(1, 2), st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
def test_automatic_pads(size, kernel, stride, dilation, auto):
    described = node(auto_pad=auto, strides=[stride, stride], dilations=[dilation, dilation])
    window = read_window(described, image(size, size), (kernel, kernel))
    count = len(range(0, size, stride))
    total = max((count - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    halves = sorted((total // 2, total - total // 2), reverse=auto == "SAME_LOWER")
    assert window.results == (count, count) and window.pads == (tuple(halves), tuple(halves))
    assert window.is_same == (auto == "SAME_UPPER" or total % 2 == 0)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["MaxPool", "AveragePool", "Conv"]),
    small,
    small,
    small,
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_layers_equal_onnxruntime(tmp_path_factory, kind, kernel, first, second, flags):
    *pads, more = (int(flag) for flag in flags)
    m = Maker(19)
    attributes = {"strides": [first, second], "pads": [pad * (kernel > 1) for pad in pads]}
    if kind == "Conv":
        x = m.conv(m.input, 3, 4, kernel, dilations=[1 + more, 1], **attributes)
    else:
        counts = {"count_include_pad": more} if kind == "AveragePool" else {"ceil_mode": more}
        x = m.op(kind, m.input, kernel_shape=[kernel, kernel], **attributes, **counts)
    judged(m.save(tmp_path_factory.mktemp("graph"), x), 2e-5)


@pytest.mark.parametrize(
    ("attributes", "part"),
    [
        ({"strides": [0, 1]}, "at least 1"),
        ({"strides": [2]}, "strides of two axes"),
        ({"pads": [1, 1]}, "values to unpack"),
        ({"dilations": [9, 9]}, "nothing is left"),
    ],
)
def test_windows_that_make_no_sense(attributes, part):
    with pytest.raises(ValueError, match=part):
        read_window(node(**attributes), image(5, 5), (2, 2))

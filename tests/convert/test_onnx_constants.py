"""Parts of a graph that are computed once, each with onnxruntime as the judge; and layouts of constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.convert.onnx_constants import CONSTANTS
from facetrain.convert.onnx_tensors import BATCH, Constant, Folded, Tensor, channels_last, in_keras_order
from facetrain.errors import InputError
from tests.convert.onnx_helpers import HEIGHT, WIDTH, Maker, judged, kinds

pytest.importorskip("onnx")
A = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(A) + np.float32(0.1)
CASES = {
    "Abs": lambda m: m.op("Abs", A),
    "Add": lambda m: m.op("Add", A, A[0]),
    "Cast": lambda m: m.op("Cast", m.op("Cast", A * 3, to=7), to=1),
    "Ceil": lambda m: m.op("Ceil", A),
    "Concat": lambda m: m.op("Concat", A, A, axis=-1),
    "ConstantOfShape": lambda m: m.op("ConstantOfShape", np.array([2, 3])),
    "Div": lambda m: m.op("Div", A, POSITIVE),
    "Equal": lambda m: m.op("Cast", m.op("Equal", A, A[:, :1]), to=1),
    "Exp": lambda m: m.op("Exp", A),
    "Expand": lambda m: m.op("Expand", A, np.array([2, 2, 1, 4])),
    "Flatten": lambda m: m.op("Flatten", A, axis=2),
    "Floor": lambda m: m.op("Floor", A),
    "Gather": lambda m: m.op("Gather", A, np.array([[2, -1], [0, 1]]), axis=1),
    "Identity": lambda m: m.op("Identity", A),
    "Max": lambda m: m.op("Max", A, A[:1], np.float32(0.1)),
    "Min": lambda m: m.op("Min", A, A[:, :1]),
    "Mul": lambda m: m.op("Mul", A, A[:, :, :1]),
    "Neg": lambda m: m.op("Neg", A),
    "Pow": lambda m: m.op("Pow", POSITIVE, np.float32(1.7)),
    "Range": lambda m: m.op("Cast", m.op("Range", np.array(7), np.array(-2), np.array(-2)), to=1),
    "Reciprocal": lambda m: m.op("Reciprocal", A),
    "ReduceProd": lambda m: m.op("ReduceProd", A, axes=[1], keepdims=0),
    "Reshape": lambda m: m.op("Reshape", A, np.array([0, -1, 2])),
    "Shape": lambda m: m.op("Cast", m.op("Shape", A, start=1), to=1),
    "Size": lambda m: m.op("Cast", m.op("Size", A), to=1),
    "Slice": lambda m: m.op("Slice", A, np.array([-1, 0]), np.array([-9, 9]), np.array([2, 1]), np.array([-2, 2])),
    "Sqrt": lambda m: m.op("Sqrt", POSITIVE),
    "Squeeze": lambda m: m.op("Squeeze", A[:, :1], np.array([1])),
    "Sub": lambda m: m.op("Sub", A[1], A),
    "Transpose": lambda m: m.op("Transpose", A, perm=[2, 0, 1]),
    "Unsqueeze": lambda m: m.op("Unsqueeze", A, np.array([-1, 1])),
    "Where": lambda m: m.op("Where", A > 0, A, A[:1]),
}


@pytest.mark.parametrize("op", CASES)
def test_constants_equal_onnxruntime(op, tmp_path):
    m = Maker()
    x = m.op("Gemm", m.op("Flatten", m.input), m.normal(3 * HEIGHT * WIDTH, 1) / 16)
    constant = m.op("Reshape", CASES[op](m), np.array([1, -1]))
    rebuilt = judged(m.save(tmp_path, m.op("Add", x, constant), flat=False))
    assert kinds(rebuilt)[:2] == ["Flatten", "Dense"] and len(kinds(rebuilt)) <= 3


def test_every_foldable_operator_is_tested():
    assert set(CONSTANTS) - set(CASES) == {"Constant"}


def test_whole_numbers_are_divided_as_in_onnx(tmp_path):
    m = Maker()
    x = m.op("Gemm", m.op("Flatten", m.input), m.normal(3 * HEIGHT * WIDTH, 4) / 16)
    quotients = m.op("Div", np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2]))
    judged(m.save(tmp_path, m.op("Add", x, m.op("Cast", quotients, to=1)), flat=False))


def test_the_number_of_images_is_followed_through_arithmetic():
    def compute(op, *values, **attributes):
        from facetrain.convert.onnx_file import OnnxNode

        return CONSTANTS[op](None, OnnxNode(op, "n", (), ("y",), attributes), *values)

    sizes = compute("Shape", Tensor(np.zeros((1, 4, 5, 6)), channels_last(4)))
    assert sizes.counts_images and sizes.array.tolist() == [BATCH, 6, 4, 5]
    first, rest = (compute("Gather", sizes, Constant(np.array(index))) for index in (0, [1, 2]))
    assert first.counts_images and not rest.counts_images
    assert compute("Mul", first, rest).counts_images and not compute("Mul", rest, rest).counts_images
    assert compute("Cast", first, to=1).array == BATCH, "is exact in float32"
    assert not compute("Shape", Constant(np.zeros((BATCH % 7, 2)))).counts_images


@pytest.mark.parametrize("op,values", [("Div", (7, 0)), ("Cast", (7.0,))])
def test_what_cannot_be_computed(op, values, tmp_path):
    m = Maker()
    attributes = {"to": 8} if op == "Cast" else {}
    constant = m.op("Identity", m.op(op, *(np.array(value) for value in values), **attributes))
    x = m.op("Add", m.op("Flatten", m.input), m.op("Cast", constant, to=1))
    with pytest.raises(InputError, match="divides by zero|not supported|not a valid"):
        judged(m.save(tmp_path, x, flat=False))


@st.composite
def broadcasts(draw):
    dims = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = (0, *(axis + 1 for axis in draw(st.permutations(range(len(dims))))))
    kept = draw(st.integers(0, len(dims)))
    return dims, axes, [size if draw(st.booleans()) else 1 for size in dims[kept:]]


@settings(max_examples=80, deadline=None)
@given(broadcasts())
def test_constants_in_another_layout(case):
    dims, axes, shape = case
    rng = np.random.default_rng(0)
    meant, constant = rng.normal(size=(2, *dims)), rng.normal(size=shape)
    tensor = Tensor(meant.transpose(axes), axes)
    assert tensor.dims == tuple(dims)
    expected = (meant + constant).transpose(axes)
    np.testing.assert_array_equal(tensor.value + in_keras_order(constant, tensor), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_constants_of_flattened_maps(dims, random):
    axes = list(range(len(dims)))
    random.shuffle(axes)
    rng = np.random.default_rng(0)
    meant, constant = rng.normal(size=(2, *dims)), rng.normal(size=(1, int(np.prod(dims))))
    lying = meant.transpose(0, *(axis + 1 for axis in axes)).reshape(2, -1)
    folded = Folded(tuple(dims[axis] for axis in axes), tuple(axes))
    received = lying * in_keras_order(constant, Tensor(lying, (0, 1), folded))
    np.testing.assert_array_equal(received, (meant.reshape(2, -1) * constant)[:, folded.order()])

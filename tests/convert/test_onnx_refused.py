"""What operators cannot express is refused by a sentence that names the node."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.convert.onnx_file import read_onnx
from facetrain.convert.onnx_model import rebuild
from facetrain.errors import InputError
from tests.convert.onnx_helpers import HEIGHT, WIDTH, Maker

pytest.importorskip("onnx")
PIXELS = 3 * HEIGHT * WIDTH
GRAPHS = {
    "only images in rows": lambda m: m.op("Gemm", flat(m), m.normal(3, 2), transA=1),
    "does not fit 240 values": lambda m: m.op("Gemm", flat(m), m.normal(7, 2)),
    "B must be fixed numbers": lambda m: m.op("Gemm", flat(m), flat(m)),
    "constant matrices": lambda m: m.op("MatMul", m.input, m.normal(3, WIDTH, 2)),
    "matrices of each image": lambda m: m.op("MatMul", flat(m), m.op("Transpose", flat(m), perm=[0, 1])),
    "in one group": lambda m: m.op("ConvTranspose", m.input, m.normal(3, 1, 2, 2), group=3),
    "beyond the last input": lambda m: m.op(
        "ConvTranspose", m.input, m.normal(3, 1, 2, 2), strides=[2, 2], output_padding=[1, 1]
    ),
    "do not fit 3 channels": lambda m: m.op("Conv", m.input, m.normal(4, 2, 1, 1)),
    "bias of 5 values": lambda m: m.op("Conv", m.input, m.normal(4, 3, 1, 1), m.normal(5)),
    "weights must be fixed": lambda m: m.op("Conv", m.input, m.op("ReduceMax", m.input, axes=[2, 3])),
    "negative pads": lambda m: m.conv(m.input, 3, 4, 2, pads=[-1, 0, 0, 0]),
    "pooling with dilations": lambda m: m.op("MaxPool", m.input, kernel_shape=[2, 2], dilations=[2, 2]),
    "maps of two axes": lambda m: m.op("GlobalAveragePool", m.op("Reshape", m.input, np.array([0, 3, -1]))),
    "p = 2": lambda m: m.op("LpNormalization", flat(m), p=1, axis=1),
    "not above 0": lambda m: m.op("BatchNormalization", m.input, *[m.normal(3)] * 3, np.float32([1, -1, 1])),
    r"\[\[3\], \[4\], \[3\], \[3\]\] do not fit": lambda m: m.op(
        "BatchNormalization", m.input, m.normal(3), m.normal(4), m.normal(3), np.float32([1, 1, 1])
    ),
    "slopes of shape": lambda m: m.op("PRelu", m.input, m.normal(2, 1, 1)),
    "slope below 0": lambda m: m.op("LeakyRelu", m.input, alpha=-0.1),
    "only one exponent": lambda m: m.op("Pow", m.input, m.normal(3, 1, 1)),
    "divides by zero": lambda m: m.op("Div", m.input, np.float32([0])),
    "floats are supported": lambda m: m.op("Cast", m.op("Cast", m.input, to=7), to=1),
    "single numbers": lambda m: m.op("Max", m.input, m.normal(3, 1, 1)),
    "different shapes": lambda m: m.op("Mean", m.input, m.op("GlobalMaxPool", m.input)),
    "of 4 and 2 axes": lambda m: m.op("Add", m.input, m.op("ReduceMean", m.input, axes=[2, 3], keepdims=0)),
    "does not fit images": lambda m: m.op("Add", flat(m), m.normal(1, 1, PIXELS)),
    "depend on the images": lambda m: m.op("Concat", m.input, m.normal(1, 3, HEIGHT, WIDTH), axis=1),
    "single place": lambda m: m.op("Gather", m.input, np.array([0, 1]), axis=1),
    r"parts \[1, 1\]": lambda m: m.op("Split", m.input, np.array([1, 1]), outputs=2, axis=1)[0],
    "nothing is left of an axis": lambda m: m.op("Slice", m.input, np.array([5]), np.array([5]), np.array([2])),
    "cannot take the shape": lambda m: m.op("Reshape", m.input, np.array([0, 7, -1])),
    "are not all of length 1": lambda m: m.op("Squeeze", m.input, np.array([1])),
    "have the axes of its input": lambda m: m.op("Expand", m.input, np.array([1, 1, 3, HEIGHT, WIDTH])),
    "constants only": lambda m: m.op("Where", np.array([True]), m.input, m.input),
    "what is in the images": lambda m: m.op(
        "Reshape", m.input, m.op("Cast", m.op("ReduceMax", flat(m), axes=[1], keepdims=0), to=1)
    ),
}


def flat(m: Maker) -> str:
    return m.op("Flatten", m.input)


@pytest.mark.parametrize("part", GRAPHS)
def test_refused_by_a_sentence_that_names_the_node(part, tmp_path):
    m = Maker()
    path = m.save(tmp_path, GRAPHS[part](m))
    with pytest.raises(InputError, match=part) as caught:
        rebuild(read_onnx(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and " node '" in text and "\n" not in text


@pytest.mark.parametrize(
    ("opset", "make", "part"),
    [
        (20, lambda m: m.op("Gelu", m.input, approximate="tanh"), "exact form"),
        (17, lambda m: m.op("Cast", m.op("Shape", m.input), to=1), "does not depend on the images"),
        (17, lambda m: m.op("Sub", m.normal(1, 4), m.normal(1, 4)), "depends on none"),
        (17, lambda m: m.op("Reshape", m.input, np.array([0, 3, -1])), "expected embeddings"),
    ],
)
def test_refused_otherwise(opset, make, part, tmp_path):
    m = Maker(opset)
    path = m.save(tmp_path, make(m), flat=False)
    with pytest.raises(InputError, match=part):
        rebuild(read_onnx(path))

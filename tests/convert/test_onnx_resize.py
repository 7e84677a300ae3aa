"""Resizing by every rule, with onnxruntime as the judge."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.convert.onnx_resize import Rule, interpolation_matrix
from facetrain.errors import InputError
from tests.convert.onnx_helpers import HEIGHT, WIDTH, Maker, judged, kinds

pytest.importorskip("onnx")
TRANSFORM = "coordinate_transformation_mode"
UP, DOWN, ODD = (2.0, 3.0), (0.5, 0.5), (1.75, 0.8)


def resized(folder, scales=None, sizes=None, opset=17, tolerance=2e-5, **attributes):
    m = Maker(opset)
    x = m.conv(m.input, 3, 4)
    numbers = [np.array([1, 1, *scales], np.float32)] if scales else ["", np.array([0, 4, *sizes])]
    if opset >= 11:
        numbers = ["", *numbers]
    else:
        numbers = [np.array([1, 1, *scales], np.float32)]
    if sizes:  # the number of images is not fixed: as exporters do, it is taken from the shape
        start = m.op("Slice", m.op("Shape", x), np.array([0]), np.array([2]))
        numbers[-1] = m.op("Concat", start, np.array(sizes), axis=0)
    x = m.op("Resize" if opset > 9 else "Upsample", x, *numbers, **attributes)
    return judged(m.save(folder, x), tolerance)


@pytest.mark.parametrize("scales", [UP, DOWN, ODD], ids=["up", "down", "odd"])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_modes(mode, transform, scales, tmp_path):
    if mode == "nearest" and transform == "align_corners":
        scales = (2.0, 2.0)  # elsewhere places lie halfway between pixels, up to the last bit
    resized(tmp_path, scales, mode=mode, **{TRANSFORM: transform})


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_ceil", "round_prefer_floor"])
def test_roundings(rounding, tmp_path):
    arguments = {TRANSFORM: "asymmetric", "nearest_mode": rounding}
    resized(tmp_path, (2.0, 0.5), mode="nearest", **arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"scales": UP, "mode": "nearest", TRANSFORM: "asymmetric", "nearest_mode": "floor"}, "UpSampling2D"),
        ({"scales": UP, "mode": "nearest"}, "UpSampling2D"),
        ({"scales": (2.0, 2.0), "mode": "linear"}, "UpSampling2D"),
        ({"sizes": (5, 7), "mode": "linear"}, "Resizing"),
        ({"sizes": (5, 7), "mode": "nearest", TRANSFORM: "tf_half_pixel_for_nn", "nearest_mode": "floor"}, "Resizing"),
        ({"scales": (2.0, 2.0), "mode": "linear", TRANSFORM: "align_corners"}, "Interpolation"),
        ({"scales": UP, "mode": "nearest", "opset": 10}, "UpSampling2D"),
        ({"scales": (2.0, 2.0), "mode": "linear", "opset": 10}, "Interpolation"),
        ({"scales": (2.0, 2.0), "mode": "nearest", "opset": 9}, "UpSampling2D"),
        ({"sizes": (16, 20), "mode": "nearest"}, "UpSampling2D"),
    ],
)  # fmt: skip
def test_layers_of_keras_are_found(arguments, expected, tmp_path):
    assert kinds(resized(tmp_path, **arguments)) == ["Conv2D", expected]


def test_a_matrix_by_hand():
    matrix = interpolation_matrix(2, 4, 2.0, Rule("linear", "half_pixel"))
    np.testing.assert_allclose(matrix, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    matrix = interpolation_matrix(3, 5, 5 / 3, Rule("linear", "align_corners"))
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])
    assert interpolation_matrix(4, 2, 0.5, Rule("nearest", "asymmetric", "floor")).argmax(1).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("attributes", "part"),
    [
        ({"scales": (2.0, 2.0), "mode": "linear", TRANSFORM: "tf_crop_and_resize"}, "tf_crop_and"),
        ({"scales": (2.0, 2.0), "mode": "linear", "antialias": 1, "opset": 18}, "antialias"),
        ({"scales": (1e5, 2.0), "mode": "linear"}, f"map of {HEIGHT * 100000}x{WIDTH * 2} pixels"),
    ],
)  # fmt: skip
def test_what_is_refused(attributes, part, tmp_path):
    with pytest.raises(InputError, match=part):
        resized(tmp_path, **attributes)

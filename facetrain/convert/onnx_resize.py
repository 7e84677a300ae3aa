"""Resizing: any rule of ONNX as matrices, and the layer of Keras that has the same ones."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import Constant, Tensor, Value
from facetrain.errors import InputError
from facetrain.layers.spatial import Interpolation

TRANSFORMS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
)
_MOST_ELEMENTS = 1 << 22
_KERAS_MODES = {"nearest": "nearest", "linear": "bilinear"}


class Rule(NamedTuple):
    """How output pixels are made of input pixels.

    Attributes:
        mode: ``nearest``, ``linear`` or ``cubic``.
        transform: how the place of an output pixel is found in the input, as ONNX calls it.
        rounding: of ``nearest``, as ONNX calls it.
        cubic: coefficient of ``cubic``.
    """

    mode: str
    transform: str
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75


def resize(graph: Graph, node: OnnxNode, x: Value, *others: Optional[Value]) -> Tensor:
    """Resize and Upsample: UpSampling2D or Resizing where they do the same, else Interpolation."""
    tensor = graph.tensor(x)
    if tensor.rank != 4:
        raise InputError(f"only maps of two axes are supported, received an input {list(tensor.dims)}")
    scales, sizes = _wanted(graph, node, tensor, others)
    rule = _rule(graph, node)
    tensor = graph.channels_last(tensor)
    inputs = tensor.dims[1:]
    if min(sizes) < 1 or max(size * result for size, result in zip(inputs, sizes)) > _MOST_ELEMENTS:
        raise InputError(f"a map of {sizes[0]}x{sizes[1]} pixels is not supported")
    matrices = [interpolation_matrix(inputs[axis], sizes[axis], scales[axis], rule) for axis in (0, 1)]
    value = _keras_layer(graph, tensor, matrices, rule)
    if value is None:
        value = graph.layer(Interpolation, tensor.value, matrices, height=sizes[0], width=sizes[1])
    return tensor.like(value, nonnegative=tensor.nonnegative and rule.mode != "cubic")


def interpolation_matrix(size: int, result: int, scale: float, rule: Rule) -> np.ndarray:
    """Returns what each output pixel is made of, [result, size], along one axis.

    Args:
        size, result: pixels of input and output.
        scale: output over input, as the graph states it.
        rule: see ``Rule``.
    """
    places = _places(size, result, scale, rule.transform)
    matrix = np.zeros((result, size))
    rows = np.arange(result)
    if rule.mode == "nearest":
        matrix[rows, np.clip(_rounded(places, rule.rounding), 0, size - 1)] = 1.0
        return matrix
    first = np.floor(places).astype(int)
    share = places - first
    if rule.mode == "linear":
        weights = {0: 1.0 - share, 1: share}
    else:
        weights = {step: _cubic(np.abs(share - step), rule.cubic) for step in (-1, 0, 1, 2)}
    for step, weight in weights.items():
        np.add.at(matrix, (rows, np.clip(first + step, 0, size - 1)), weight)
    return matrix


def _wanted(
    graph: Graph, node: OnnxNode, tensor: Tensor, others: tuple[Optional[Value], ...]
) -> tuple[list[float], list[int]]:
    """Returns scales and sizes of rows and columns."""
    arrays = [value.array if isinstance(value, Constant) else None for value in others]
    if any(value is not None and not isinstance(value, Constant) for value in others):
        raise InputError("its size must be fixed, but it is computed from what is in the images")
    scales, sizes = (arrays[-1] if arrays else None), None
    if node.op == "Resize" and graph.opset >= 11:
        scales, sizes = [*arrays, None, None, None][1:3]
    if scales is None or not scales.size:
        scales = None
    if scales is None and sizes is None:
        given = node.attributes.get("scales")
        scales = None if given is None else np.asarray(given, np.float64)
    if scales is None and sizes is None:
        raise InputError("it states neither scales nor sizes")
    axes = node.attributes.get("axes") or list(range(4))
    dims = (1, *tensor.dims)
    stated = (sizes if scales is None else scales).reshape(-1).tolist()
    places = {int(axis) % 4: number for axis, number in zip(axes, stated)}
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise InputError("only the policy 'stretch' is supported")
    if scales is None:
        if places.get(1, dims[1]) != dims[1]:
            raise InputError("only rows and columns can be resized")
        results = [int(places.get(axis, dims[axis])) for axis in (2, 3)]
        return [results[axis - 2] / dims[axis] for axis in (2, 3)], results
    if places.get(0, 1.0) != 1.0 or places.get(1, 1.0) != 1.0:
        raise InputError("only rows and columns can be resized")
    factors = [float(places.get(axis, 1.0)) for axis in (2, 3)]
    return factors, [int(np.floor(dims[axis] * np.float32(factors[axis - 2]))) for axis in (2, 3)]


def _rule(graph: Graph, node: OnnxNode) -> Rule:
    get = node.attributes.get
    mode = {"bilinear": "linear"}.get(get("mode", "nearest"), get("mode", "nearest"))
    old = node.op == "Upsample" or graph.opset < 11
    transform = get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = get("nearest_mode", "floor" if old else "round_prefer_floor")
    if mode not in ("nearest", "linear", "cubic") or transform not in TRANSFORMS:
        raise InputError(f"mode {mode!r} with {transform!r} is not supported")
    if get("antialias", 0) or get("exclude_outside", 0):
        raise InputError("antialias and exclude_outside are not supported")
    return Rule(mode, transform, rounding, float(get("cubic_coeff_a", -0.75)))


def _places(size: int, result: int, scale: float, transform: str) -> np.ndarray:
    places = np.arange(result, dtype=np.float64)
    if transform == "asymmetric":
        return places / scale
    if transform == "tf_half_pixel_for_nn":
        return (places + 0.5) / scale
    if transform == "align_corners":
        return places * ((size - 1) / (result - 1)) if result > 1 else places
    if transform == "pytorch_half_pixel" and result == 1:
        return np.zeros(1)
    shift = 0.0
    if transform == "half_pixel_symmetric":
        shift = size / 2 * (1 - result / (scale * size))
    return shift + (places + 0.5) / scale - 0.5


def _rounded(places: np.ndarray, rounding: str) -> np.ndarray:
    functions = {
        "ceil": np.ceil,
        "floor": np.floor,
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    }
    if rounding not in functions:
        raise InputError(f"nearest_mode {rounding!r} is not supported")
    return functions[rounding](places).astype(int)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _keras_layer(graph: Graph, tensor: Tensor, matrices: list[np.ndarray], rule: Rule) -> Any:
    """Returns the result of a layer of Keras that has these matrices, or None if there is none."""
    if rule.mode not in _KERAS_MODES:
        return None
    # TensorFlow resizes around the middles of pixels; its nearest rounds down from there, shifted by half a pixel.
    own = Rule(rule.mode, "half_pixel", "round_prefer_ceil")
    for matrix in matrices:
        result, size = matrix.shape
        if not np.allclose(matrix, interpolation_matrix(size, result, result / size, own), rtol=0, atol=1e-6):
            return None
    (height, rows), (width, columns) = (matrix.shape for matrix in matrices)
    mode = _KERAS_MODES[rule.mode]
    if height % rows == 0 and width % columns == 0:
        factors = (height // rows, width // columns)
        return graph.layer(keras.layers.UpSampling2D, tensor.value, size=factors, interpolation=mode)
    return graph.layer(keras.layers.Resizing, tensor.value, height=height, width=width, interpolation=mode)


RESIZING: dict[str, Operator] = {"Resize": resize, "Upsample": resize}

"""Parts of a graph that do not depend on the images: computed once, with NumPy, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Optional

import numpy as np

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_tensors import BATCH, Constant, Value
from facetrain.errors import InputError

_MOST = 1 << 24
_TYPES = {
    1: "f4",
    2: "u1",
    3: "i1",
    5: "i2",
    6: "i4",
    7: "i8",
    9: "?",
    10: "f4",
    11: "f4",
    12: "u4",
    13: "u8",
    16: "f4",
}


def _bounded(shape: Sequence[int]) -> tuple[int, ...]:
    if any(size < 0 for size in shape) or prod(shape) > _MOST:
        raise InputError(f"a constant of shape {list(shape)[:8]} is not computed, it has more than {_MOST} elements")
    return tuple(int(size) for size in shape)


def _structural(compute: Callable[..., np.ndarray]) -> Operator:
    """Makes an operator of a function that only picks and orders elements."""

    def operator(graph: Graph, node: OnnxNode, *values: Optional[Constant]) -> Constant:
        arrays = [None if value is None else value.array for value in values]
        result = np.asarray(compute(graph, node, *arrays))
        counts = any(value is not None and value.counts_images for value in values)
        return Constant(result, counts and bool((np.abs(result) == BATCH).any()))

    return operator


def _arithmetic(compute: Callable[..., np.ndarray]) -> Operator:
    """Makes an operator of a function that works element by element."""

    def operator(graph: Graph, node: OnnxNode, *values: Optional[Constant]) -> Constant:
        arrays = [value.array for value in values if value is not None]
        _bounded(np.broadcast_shapes(*(array.shape for array in arrays)))
        with np.errstate(all="ignore"):
            result = np.asarray(compute(*arrays))
        if result.dtype.kind == "f":
            result = result.astype(np.float32)
        return Constant(result, any(value is not None and value.counts_images for value in values))

    return operator


def _constant(graph: Graph, node: OnnxNode) -> Constant:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in node.attributes:
            value = node.attributes[name]
            kind = {"value": None, "value_int": np.int64, "value_ints": np.int64}.get(name, np.float32)
            return Constant(np.asarray(value, kind))
    raise InputError("only constants that are numbers are supported")


def _shape(graph: Graph, node: OnnxNode, x: Value) -> Constant:
    dims = x.array.shape if isinstance(x, Constant) else (BATCH, *x.dims)
    dims = dims[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
    return Constant(np.asarray(dims, np.int64), not isinstance(x, Constant) and BATCH in dims)


def _size(graph: Graph, node: OnnxNode, x: Value) -> Constant:
    if isinstance(x, Constant):
        return Constant(np.asarray(x.array.size, np.int64))
    return Constant(np.asarray(BATCH * prod(x.dims), np.int64), counts_images=True)


def _gather(graph: Graph, node: OnnxNode, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    axis = int(node.attributes.get("axis", 0))
    _bounded([indices.size, x.size // max(x.shape[axis], 1)])
    return np.take(x, indices.astype(np.int64), axis=axis)


def _cut(graph: Graph, node: OnnxNode, x: np.ndarray, *bounds: Optional[np.ndarray]) -> np.ndarray:
    names = ("starts", "ends", "axes", "steps")
    given = [node.attributes.get(name) for name in names]
    given = [default if value is None else value.reshape(-1) for default, value in zip(given, (*bounds, *[None] * 4))]
    starts, ends, axes, steps = given
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps):
        length = x.shape[axis]
        stop = None if step < 0 and end < -length else int(end)
        places = range(*slice(int(start), stop, int(step)).indices(length))
        x = np.take(x, places, axis=int(axis)) if len(places) else np.take(x, np.zeros(0, np.int64), axis=int(axis))
    return x


def _axes(node: OnnxNode, axes: Optional[np.ndarray]) -> Optional[list[int]]:
    given: Any = node.attributes.get("axes") if axes is None else axes.reshape(-1).tolist()
    return None if given is None else [int(axis) for axis in given]


def _squeeze(graph: Graph, node: OnnxNode, x: np.ndarray, axes: Optional[np.ndarray] = None) -> np.ndarray:
    wanted = _axes(node, axes)
    return np.squeeze(x, None if wanted is None else tuple(wanted))


def _unsqueeze(graph: Graph, node: OnnxNode, x: np.ndarray, axes: Optional[np.ndarray] = None) -> np.ndarray:
    return np.expand_dims(x, tuple(_axes(node, axes) or ()))


def _reshape(graph: Graph, node: OnnxNode, x: np.ndarray, shape: Optional[np.ndarray] = None) -> np.ndarray:
    wanted = list(node.attributes.get("shape", [])) if shape is None else shape.reshape(-1).tolist()
    if not node.attributes.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 and axis < x.ndim else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(graph: Graph, node: OnnxNode, x: np.ndarray) -> np.ndarray:
    axis = int(node.attributes.get("axis", 1))
    return x.reshape(prod(x.shape[:axis]), -1)


def _transpose(graph: Graph, node: OnnxNode, x: np.ndarray) -> np.ndarray:
    return x.transpose(node.attributes.get("perm"))


def _concat(graph: Graph, node: OnnxNode, *arrays: np.ndarray) -> np.ndarray:
    _bounded([sum(array.size for array in arrays)])
    return np.concatenate(arrays, axis=int(node.attributes.get("axis", 0)))


def _expand(graph: Graph, node: OnnxNode, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, _bounded(np.broadcast_shapes(x.shape, tuple(shape.reshape(-1).tolist()))))


def _constant_of_shape(graph: Graph, node: OnnxNode, shape: np.ndarray) -> np.ndarray:
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(-1)[0]
    return np.full(_bounded(shape.reshape(-1).tolist()), value)


def _range(graph: Graph, node: OnnxNode, start: np.ndarray, limit: np.ndarray, step: np.ndarray) -> np.ndarray:
    first, last, by = (array.item() for array in (start, limit, step))
    _bounded([max(int(np.ceil((last - first) / by)), 0)])
    return np.arange(first, last, by, dtype=start.dtype)


def _cast(graph: Graph, node: OnnxNode, x: np.ndarray) -> np.ndarray:
    kind = int(node.attributes.get("to", 1))
    if kind not in _TYPES:
        raise InputError(f"element type {kind} is not supported")
    with np.errstate(all="ignore"):
        return x.astype(_TYPES[kind])


def _identity(graph: Graph, node: OnnxNode, x: np.ndarray, *others: Any) -> np.ndarray:
    return x


def _prod(graph: Graph, node: OnnxNode, value: Constant, axes: Optional[Constant] = None) -> Constant:
    wanted = _axes(node, None if axes is None else axes.array)
    keepdims = bool(node.attributes.get("keepdims", 1))
    result = np.prod(value.array, None if wanted is None else tuple(wanted), keepdims=keepdims)
    return Constant(np.asarray(result, value.array.dtype), value.counts_images)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return a / b
    if not np.all(b):
        raise InputError("it divides by zero")
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


CONSTANTS: dict[str, Operator] = {
    "Constant": _constant,
    "ReduceProd": _prod,
    "Shape": _shape,
    "Size": _size,
    "Cast": _structural(_cast),
    "Concat": _structural(_concat),
    "ConstantOfShape": _structural(_constant_of_shape),
    "Expand": _structural(_expand),
    "Flatten": _structural(_flatten),
    "Gather": _structural(_gather),
    "Identity": _structural(_identity),
    "Range": _structural(_range),
    "Reshape": _structural(_reshape),
    "Slice": _structural(_cut),
    "Squeeze": _structural(_squeeze),
    "Transpose": _structural(_transpose),
    "Unsqueeze": _structural(_unsqueeze),
    "Abs": _arithmetic(np.abs),
    "Add": _arithmetic(np.add),
    "Ceil": _arithmetic(np.ceil),
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(np.equal),
    "Exp": _arithmetic(np.exp),
    "Floor": _arithmetic(np.floor),
    "Max": _arithmetic(lambda *arrays: np.max(np.broadcast_arrays(*arrays), axis=0)),
    "Min": _arithmetic(lambda *arrays: np.min(np.broadcast_arrays(*arrays), axis=0)),
    "Mul": _arithmetic(np.multiply),
    "Neg": _arithmetic(np.negative),
    "Pow": _arithmetic(np.power),
    "Reciprocal": _arithmetic(np.reciprocal),
    "Sqrt": _arithmetic(np.sqrt),
    "Sub": _arithmetic(np.subtract),
    "Where": _arithmetic(np.where),
}

"""Changes of shape and order; most of them only change what is known about the layout."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Optional

from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_regroup import lies_in, regroup
from facetrain.convert.onnx_tensors import BATCH, Constant, Tensor, Value
from facetrain.errors import InputError
from facetrain.layers.spatial import Padding

MIXES = "it mixes the images of a batch, which is not supported"
"""What is said of a node that takes, moves or joins something along the batch axis."""


def transpose(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Transpose: nothing moves, only the layout is known to be another one."""
    tensor = graph.unfolded(graph.tensor(x))
    order = [int(axis) for axis in node.attributes.get("perm") or range(tensor.rank)[::-1]]
    if order[0] != 0:
        raise InputError(MIXES)
    axes = tuple(order.index(axis) for axis in tensor.axes)
    return Tensor(tensor.value, axes, nonnegative=tensor.nonnegative)


def reshape(graph: Graph, node: OnnxNode, x: Value, shape: Optional[Value] = None) -> Tensor:
    """Reshape: the shape may be computed from the number of images."""
    tensor = graph.tensor(x)
    if shape is not None and not isinstance(shape, Constant):
        raise InputError("its shape must be fixed, but it is computed from what is in the images")
    wanted = node.attributes.get("shape", []) if shape is None else shape.array.reshape(-1).tolist()
    return reshaped(graph, tensor, _target(graph, node, tensor, [int(size) for size in wanted]))


def flatten(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Flatten after the batch axis: Flatten; what comes next takes care of the order of the elements."""
    tensor = graph.tensor(x)
    if int(node.attributes.get("axis", 1)) % tensor.rank != 1:
        raise InputError(MIXES)
    return reshaped(graph, tensor, [prod(tensor.dims)])


def squeeze(graph: Graph, node: OnnxNode, x: Value, axes: Optional[Value] = None) -> Tensor:
    """Squeeze of axes of length 1."""
    tensor = graph.tensor(x)
    given = node.attributes.get("axes") if axes is None else graph.numbers(axes, "axes").reshape(-1).tolist()
    if given is None:
        given = [axis for axis, size in enumerate(tensor.dims, start=1) if size == 1] + [0] * (graph.batch == 1)
    dropped = {int(axis) % tensor.rank for axis in given}
    if 0 in dropped:
        raise InputError(MIXES)
    if any(tensor.dims[axis - 1] != 1 for axis in dropped):
        raise InputError(f"axes {sorted(dropped)} of images {list(tensor.dims)} are not all of length 1")
    return reshaped(graph, tensor, [size for axis, size in enumerate(tensor.dims, start=1) if axis not in dropped])


def unsqueeze(graph: Graph, node: OnnxNode, x: Value, axes: Optional[Value] = None) -> Tensor:
    """Unsqueeze: new axes of length 1."""
    tensor = graph.tensor(x)
    given = node.attributes.get("axes", []) if axes is None else graph.numbers(axes, "axes").reshape(-1).tolist()
    rank = tensor.rank + len(given)
    new = {int(axis) % rank for axis in given}
    if 0 in new:
        raise InputError(MIXES)
    old = iter(tensor.dims)
    return reshaped(graph, tensor, [1 if axis in new else next(old) for axis in range(1, rank)])


def expand(graph: Graph, node: OnnxNode, x: Value, shape: Value) -> Tensor:
    """Expand: axes of length 1 are repeated; lengths that are divided by need not be."""
    tensor = graph.tensor(x)
    wanted = [int(size) for size in shape.array.reshape(-1)] if isinstance(shape, Constant) else []
    if len(wanted) != tensor.rank or wanted[0] not in (1, BATCH, graph.batch):
        raise InputError("its shape must be fixed, and have the axes of its input")
    counts = [max(size, 1) // own if own == 1 else 1 for size, own in zip(wanted[1:], tensor.dims)]
    if tensor.form is not None and tensor.form.kind in ("norm", "inverse_norm"):
        return tensor
    if max(counts) == 1:
        return tensor
    graph.check_size([size * count for size, count in zip(tensor.dims, counts)])
    pads = [(0, counts[axis - 1] - 1) for axis in tensor.axes[1:]]
    return tensor.like(graph.layer(Padding, graph.unfolded(tensor).value, pads=pads, mode="edge"), folded=None)


def reshaped(graph: Graph, tensor: Tensor, target: Sequence[int]) -> Tensor:
    """Returns a tensor with other axes, the elements in the order of ONNX; nothing moves unless it must.

    Args:
        graph: the graph.
        tensor: any.
        target: sizes without the batch axis.
    """
    if prod(target) != prod(tensor.dims):
        raise InputError(f"images {list(tensor.dims)} cannot take the shape {list(target)}")
    if tensor.folded is not None and list(target) == list(tensor.dims):
        return tensor
    tensor = graph.expanded(tensor)
    places = [axis - 1 for axis in tensor.axes[1:]]
    order, axes = regroup(tensor.dims, places, target)
    if not lies_in(tensor.dims, places, order):
        if len(target) == 1:
            return graph.flattened(tensor)
        units = [place for place in places if place not in order]
        tensor = graph.arranged(tensor, (0, *(place + 1 for place in (*units, *order))))
    dims = [target[axis] for axis in axes]
    value = tensor.value
    if dims != [int(size) for size in value.shape[1:]]:
        value = (
            graph.layer(keras.layers.Flatten, value)
            if len(dims) == 1
            else graph.layer(keras.layers.Reshape, value, target_shape=dims)
        )
    return Tensor(value, (0, *(axis + 1 for axis in axes)), nonnegative=tensor.nonnegative)


def _target(graph: Graph, node: OnnxNode, tensor: Tensor, wanted: list[int]) -> list[int]:
    """Returns the sizes that a Reshape asks for, without the batch axis."""
    dims = (graph.batch or BATCH, *tensor.dims)
    if not node.attributes.get("allowzero", 0):
        wanted = [dims[axis] if size == 0 and axis < len(dims) else size for axis, size in enumerate(wanted)]
    if not wanted or wanted[0] not in (-1, BATCH, graph.batch):
        raise InputError(MIXES)
    rest, elements = list(wanted[1:]), prod(tensor.dims)
    if rest.count(-1) == 1:
        known = -prod(rest)
        if known < 1 or elements % known:
            raise InputError(f"images {list(tensor.dims)} cannot take the shape {wanted[1:]}")
        rest[rest.index(-1)] = elements // known
    if any(size < 1 for size in rest) or prod(rest) != elements:
        raise InputError(f"images {list(tensor.dims)} cannot take the shape {wanted[1:]}, unless it mixes images")
    return rest


SHAPES: dict[str, Operator] = {
    "Expand": expand,
    "Flatten": flatten,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}

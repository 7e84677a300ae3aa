"""Changes of shape and order; most of them only change what is known about the layout."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_regroup import lies_in, regroup
from facetrain.convert.onnx_tensors import BATCH, Constant, Tensor, Value, channels_last
from facetrain.errors import InputError
from facetrain.layers.spatial import Padding, Slice

_MIXES = "it mixes the images of a batch, which is not supported"


def transpose(graph: Graph, node: OnnxNode, x: Value) -> Tensor:
    """Transpose: nothing moves, only the layout is known to be another one."""
    tensor = graph.unfolded(graph.tensor(x))
    order = [int(axis) for axis in node.attributes.get("perm") or range(tensor.rank)[::-1]]
    if order[0] != 0:
        raise InputError(_MIXES)
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
        raise InputError(_MIXES)
    return reshaped(graph, tensor, [prod(tensor.dims)])


def squeeze(graph: Graph, node: OnnxNode, x: Value, axes: Optional[Value] = None) -> Tensor:
    """Squeeze of axes of length 1."""
    tensor = graph.tensor(x)
    given = node.attributes.get("axes") if axes is None else graph.numbers(axes, "axes").reshape(-1).tolist()
    if given is None:
        given = [axis for axis, size in enumerate(tensor.dims, start=1) if size == 1] + [0] * (graph.batch == 1)
    dropped = {int(axis) % tensor.rank for axis in given}
    if 0 in dropped:
        raise InputError(_MIXES)
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
        raise InputError(_MIXES)
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
    pads = [(0, counts[axis - 1] - 1) for axis in tensor.axes[1:]]
    return tensor.like(graph.layer(Padding, graph.unfolded(tensor).value, pads=pads, mode="edge"), folded=None)


def concat(graph: Graph, node: OnnxNode, *values: Value) -> Tensor:
    """Concat along any axis but that of the images: Concatenate."""
    tensors = [graph.unfolded(graph.tensor(value)) for value in values]
    axis = int(node.attributes.get("axis", 1)) % tensors[0].rank
    if axis == 0 or any(tensor.rank != tensors[0].rank for tensor in tensors):
        raise InputError(_MIXES)
    if len(tensors) == 1:
        return tensors[0]
    tensors = [graph.arranged(tensor, tensors[0].axes) for tensor in tensors]
    inputs = [tensor.value for tensor in tensors]
    value = graph.layer(keras.layers.Concatenate, inputs, axis=tensors[0].axes.index(axis))
    return Tensor(value, tensors[0].axes, nonnegative=all(tensor.nonnegative for tensor in tensors))


def cut(graph: Graph, node: OnnxNode, x: Value, *bounds: Optional[Value]) -> Tensor:
    """Slice: Cropping2D inside a map, else Slice."""
    tensor = graph.tensor(x)
    given = [node.attributes.get(name) for name in ("starts", "ends", "axes", "steps")]
    for position, (name, value) in enumerate(zip(("starts", "ends", "axes", "steps"), bounds)):
        if value is not None:
            if name == "ends" and isinstance(value, Constant):
                given[position] = value.array.reshape(-1).tolist()
            else:
                given[position] = graph.numbers(value, name).reshape(-1).tolist()
    starts, ends, axes, steps = given
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps):
        tensor = _range(graph, tensor, int(axis) % tensor.rank, int(start), int(end), int(step))
    return tensor


def split(graph: Graph, node: OnnxNode, x: Value, sizes: Optional[Value] = None) -> list[Tensor]:
    """Split: one Slice for each part."""
    tensor = graph.tensor(x)
    axis = int(node.attributes.get("axis", 0)) % tensor.rank
    if axis == 0:
        raise InputError(_MIXES)
    given = node.attributes.get("split") if sizes is None else graph.numbers(sizes, "split").reshape(-1).tolist()
    length, count = tensor.dims[axis - 1], len(node.outputs)
    if given is None:
        given = [-(-length // count)] * (count - 1)
        given.append(length - sum(given))
    if sum(given) != length or len(given) != count or min(given) < 1:
        raise InputError(f"parts {list(given)} do not fit an axis of {length}")
    ends = np.cumsum(given).tolist()
    return [_range(graph, tensor, axis, end - size, end, 1) for size, end in zip(given, ends)]


def gather(graph: Graph, node: OnnxNode, x: Value, indices: Value) -> Tensor:
    """Gather of a single place of an axis: Slice."""
    tensor, places = graph.tensor(x), graph.numbers(indices, "indices")
    axis = int(node.attributes.get("axis", 0)) % tensor.rank
    if axis == 0:
        raise InputError(_MIXES)
    if places.size != 1 or places.ndim > 1:
        raise InputError(f"only a single place can be taken, received {places.size}")
    length = tensor.dims[axis - 1]
    place = int(places.item()) % length
    part = _range(graph, tensor, axis, place, place + 1, 1)
    if places.ndim == 1:
        return part
    return reshaped(graph, part, [size for each, size in enumerate(part.dims, start=1) if each != axis])


def pad(
    graph: Graph,
    node: OnnxNode,
    x: Value,
    pads: Optional[Value] = None,
    value: Optional[Value] = None,
    axes: Optional[Value] = None,
) -> Tensor:
    """Pad: ZeroPadding2D around a map, Cropping2D for negative pads, else Padding."""
    tensor = graph.unfolded(graph.tensor(x))
    given = node.attributes.get("pads", node.attributes.get("paddings", []))
    given = given if pads is None else graph.numbers(pads, "pads").reshape(-1).tolist()
    number = node.attributes.get("value", 0.0) if value is None else graph.numbers(value, "value").reshape(-1)[0]
    where = range(tensor.rank) if axes is None else graph.numbers(axes, "axes").reshape(-1).tolist()
    pairs = {axis: (0, 0) for axis in range(tensor.rank)}
    for position, axis in enumerate(where):
        pairs[int(axis) % tensor.rank] = (int(given[position]), int(given[position + len(where)]))
    if pairs[0] != (0, 0):
        raise InputError(_MIXES)
    mode = node.attributes.get("mode", "constant")
    lowest = min(side for pair in pairs.values() for side in pair)
    if all(pair == (0, 0) for pair in pairs.values()):
        return tensor
    in_map = tensor.rank == 4 and pairs[1] == (0, 0)
    if in_map and mode == "constant" and lowest >= 0 and float(number) == 0.0:
        tensor = graph.channels_last(tensor)
        padded = graph.layer(keras.layers.ZeroPadding2D, tensor.value, padding=(pairs[2], pairs[3]))
        return tensor.like(padded, nonnegative=tensor.nonnegative)
    if in_map and lowest < 0 and max(side for pair in pairs.values() for side in pair) <= 0:
        tensor = graph.channels_last(tensor)
        crops = tuple((-before, -after) for before, after in (pairs[2], pairs[3]))
        return tensor.like(graph.layer(keras.layers.Cropping2D, tensor.value, cropping=crops))
    arguments = {"pads": [pairs[axis] for axis in tensor.axes[1:]], "mode": mode, "value": float(number)}
    return tensor.like(graph.layer(Padding, tensor.value, **arguments))


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
        raise InputError(_MIXES)
    rest, elements = list(wanted[1:]), prod(tensor.dims)
    if rest.count(-1) == 1:
        known = -prod(rest)
        if known < 1 or elements % known:
            raise InputError(f"images {list(tensor.dims)} cannot take the shape {wanted[1:]}")
        rest[rest.index(-1)] = elements // known
    if any(size < 1 for size in rest) or prod(rest) != elements:
        raise InputError(f"images {list(tensor.dims)} cannot take the shape {wanted[1:]}, unless it mixes images")
    return rest


def _range(graph: Graph, tensor: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if axis == 0:
        if start == 0 and step == 1 and (end >= BATCH or end == graph.batch):
            return tensor
        raise InputError(_MIXES)
    length = tensor.dims[axis - 1]
    if step == 0:
        raise InputError("a slice with step 0 takes nothing")
    # Ends far below zero mean that the first element is taken too, which Python writes as None.
    stop = None if step < 0 and end < -length else end
    places = range(*slice(start, stop, step).indices(length))
    if places == range(length):
        return tensor
    if not places:
        raise InputError(f"nothing is left of an axis of {length}")
    tensor = graph.unfolded(tensor)
    place = tensor.axes.index(axis)
    if tensor.axes == channels_last(4) and step == 1 and place in (1, 2):
        crop = (places[0], length - places[-1] - 1)
        cropping = (crop, (0, 0)) if place == 1 else ((0, 0), crop)
        value = graph.layer(keras.layers.Cropping2D, tensor.value, cropping=cropping)
    else:
        last = places[-1] + (1 if step > 0 else -1)
        arguments: dict[str, Any] = {"start": places[0], "stop": None if last < 0 else last, "step": step}
        value = graph.layer(Slice, tensor.value, axis=place, **arguments)
    return tensor.like(value, nonnegative=tensor.nonnegative)


SHAPES: dict[str, Operator] = {
    "Concat": concat,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": cut,
    "Split": split,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}

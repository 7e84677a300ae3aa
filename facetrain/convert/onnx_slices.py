"""Cutting, padding and joining of tensors along axes."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Graph, Operator
from facetrain.convert.onnx_shapes import MIXES, reshaped
from facetrain.convert.onnx_tensors import BATCH, Constant, Tensor, Value, channels_last
from facetrain.errors import InputError
from facetrain.layers.spatial import Padding, Slice


def concat(graph: Graph, node: OnnxNode, *values: Value) -> Tensor:
    """Concat along any axis but that of the images: Concatenate."""
    tensors = [graph.unfolded(graph.tensor(value)) for value in values]
    axis = int(node.attributes.get("axis", 1)) % tensors[0].rank
    if axis == 0 or any(tensor.rank != tensors[0].rank for tensor in tensors):
        raise InputError(MIXES)
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
        raise InputError(MIXES)
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
        raise InputError(MIXES)
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
        raise InputError(MIXES)
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
    graph.check_size([size + sum(pairs[axis]) for axis, size in enumerate(tensor.dims, start=1)])
    arguments = {"pads": [pairs[axis] for axis in tensor.axes[1:]], "mode": mode, "value": float(number)}
    return tensor.like(graph.layer(Padding, tensor.value, **arguments))


def _range(graph: Graph, tensor: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if axis == 0:
        if start == 0 and step == 1 and (end >= BATCH or end == graph.batch):
            return tensor
        raise InputError(MIXES)
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


SLICES: dict[str, Operator] = {
    "Concat": concat,
    "Gather": gather,
    "Pad": pad,
    "Slice": cut,
    "Split": split,
}

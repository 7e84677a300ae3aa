"""Parallel linear branches become one convolution: RepVGG in its form for use."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from tensorflow import keras

from facetrain.surgery.fusing import bias_of, is_norm, norm_factors, scaled_kernels
from facetrain.surgery.graph import Call, Graph, is_symbolic, keras_class
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

_CONVS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


class _Branch(NamedTuple):
    """One summand: from the common source through padding, convolution and normalisation, each of which may be absent.

    Attributes:
        source: tensor that it starts from.
        calls: what it consists of, the last first.
        conv, pad: two of the calls.
        factor, offset: of its normalisation, [C].
    """

    source: Any
    calls: list[Call]
    conv: Call | None
    pad: Call | None
    factor: Any
    offset: Any


@surgery(repeat=True)
def reparameterize(model: keras.Model) -> Rebuilt:
    """Merges sums of linear branches into one convolution each, as RepVGG does after training.

    A branch is a convolution with or without batch normalisation, a normalisation alone, or the input itself; all start
    from one tensor and meet in an Add. The kernels, smaller ones put where their taps meet those of the largest, and
    the biases are added. Reference: Ding et al., RepVGG, CVPR 2021, arXiv 2101.03697.

    Args:
        model: a functional or sequential model; stays as it is.
    Returns:
        A functional model, not compiled; sums that cannot be merged stay.
    Raises:
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        edits: dict[Call, Edit] = {}
        for call in graph.calls:
            if keras_class(call.layer) is keras.layers.Add and not rebuild.is_shared(call.layer):
                edits.update(_merged(graph, rebuild, call))
        return edits

    return Rebuild(model, plan).run()


def _merged(graph: Graph, rebuild: Rebuild, add: Call) -> dict[Call, Edit]:
    tensors = add.args[0] if add.args and isinstance(add.args[0], (list, tuple)) else []
    if not all(is_symbolic(tensor) and tuple(tensor.shape) == tuple(add.outputs.shape) for tensor in tensors):
        return {}
    branches = [_branch(graph, rebuild, tensor, add) for tensor in tensors]
    convolutions = [branch for branch in branches if branch.conv]
    if not convolutions or len({id(branch.source) for branch in branches}) != 1:
        return {}
    base = max(convolutions, key=lambda branch: np.prod(branch.conv.layer.kernel_size))
    places = [_place(branch, base) for branch in branches]
    if None in places:
        return {}
    kernel = sum(_spread(branch, base, place) for branch, place in zip(branches, places))
    bias = sum(_bias(branch) for branch in branches)
    layer, index = base.conv.layer, branches.index(base)
    changes: dict[str, Any] = {"use_bias": True}
    if graph.is_output(add.outputs):
        changes["name"] = add.layer.name
    arrays = [
        np.asarray(array, layer.variable_dtype) for array in (kernel, np.broadcast_to(bias, layer_channels(layer)))
    ]
    dropped = {call: Edit(_same, False) for branch in branches for call in branch.calls if call is not base.pad}
    merged = rebuild.weighted(rebuild.copy(layer, **changes), arrays)
    return {**dropped, base.conv: Edit(merged, False), add: Edit(lambda summands: summands[index])}


def layer_channels(layer: keras.layers.Layer) -> tuple[int]:
    """Returns the number of output channels of a convolution, as a shape."""
    kernel = layer.weights[0].shape
    return (kernel[-1] * kernel[-2],) if keras_class(layer) is keras.layers.DepthwiseConv2D else (kernel[-1],)


def _branch(graph: Graph, rebuild: Rebuild, tensor: Any, add: Call) -> _Branch:
    calls: list[Call] = []
    factor: Any = 1.0
    offset: Any = 0.0

    def step(wanted: Any) -> Call | None:
        """Takes the call that made the tensor, if it is of the wanted kind and belongs to this branch alone."""
        nonlocal tensor
        call = graph.maker(tensor)
        alone = graph.only_user(tensor) is (calls[-1] if calls else add)
        if not (alone and call.is_plain and not rebuild.is_shared(call.layer) and wanted(call.layer)):
            return None
        calls.append(call)
        tensor = call.args[0]
        return call

    norm = step(lambda layer: is_norm(layer) and layer.axis[0] == 3)
    if norm:
        factor, offset = norm_factors(norm.layer)
    conv = step(_is_conv)
    pad = step(lambda layer: keras_class(layer) is keras.layers.ZeroPadding2D) if conv else None
    return _Branch(tensor, calls, conv, pad, factor, offset)


def _is_conv(layer: keras.layers.Layer) -> bool:
    return (
        keras_class(layer) in _CONVS
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and set(layer.dilation_rate) == {1}
    )


def _place(branch: _Branch, base: _Branch) -> tuple[int, int] | None:
    """Returns where the first tap of a branch's kernel lies in that of the base; None if it does not fit there."""
    layer, like = base.conv.layer, branch.conv.layer if branch.conv else None
    if like is None:
        size, before = (1, 1), (0, 0)
        if set(layer.strides) != {1} or branch.source.shape[-1] != layer_channels(layer)[0]:
            return None
    else:
        size, before = like.kernel_size, _before(branch)
        same = keras_class(like) is keras_class(layer) and like.strides == layer.strides
        if not same or like.weights[0].shape[2:] != layer.weights[0].shape[2:] or like.groups != layer.groups:
            return None
    edges = _before(base)
    if before is None or edges is None:
        return None
    place = tuple(edge - own for edge, own in zip(edges, before))
    fits = all(0 <= at <= big - small for at, big, small in zip(place, layer.kernel_size, size))
    return place if fits else None


def _before(branch: _Branch) -> tuple[int, int] | None:
    """Returns how many rows and columns of zeros stand before the image; None where an open size has to be known."""
    layer = branch.conv.layer
    padded = [pair[0] for pair in branch.pad.layer.padding] if branch.pad else [0, 0]
    if layer.padding == "valid":
        return tuple(padded)
    edges = []
    for side, taps, stride in zip(branch.conv.args[0].shape[1:3], layer.kernel_size, layer.strides):
        if stride == 1 or taps == 1:
            edges.append((taps - 1) // 2)
        elif side is None:
            return None
        else:
            edges.append(max((-(-side // stride) - 1) * stride + taps - side, 0) // 2)
    return tuple(own + edge for own, edge in zip(padded, edges))


def _spread(branch: _Branch, base: _Branch, place: tuple[int, int]) -> np.ndarray:
    """Returns the kernel of a branch, float64, in one of the size of the base."""
    shape = tuple(base.conv.layer.weights[0].shape)
    if branch.conv:
        (kernel,) = scaled_kernels(branch.conv.layer, np.broadcast_to(branch.factor, layer_channels(branch.conv.layer)))
    else:
        kernel = _identity(shape, keras_class(base.conv.layer)) * _per_output(branch.factor, shape, base)
    spread = np.zeros(shape)
    top, left = place
    spread[top : top + kernel.shape[0], left : left + kernel.shape[1]] = kernel
    return spread


def _identity(shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Returns the 1x1 kernel that changes nothing, for a depthwise, plain or grouped convolution."""
    inputs, outputs = shape[2:]
    if kind is keras.layers.DepthwiseConv2D:
        return np.ones((1, 1, inputs, outputs))
    # Output channel o of a group reads the channel of that group with the same place.
    return (np.arange(inputs)[:, None] == np.arange(outputs) % inputs).astype(np.float64)[None, None]


def _per_output(factor: Any, shape: tuple[int, ...], base: _Branch) -> np.ndarray:
    factor = np.broadcast_to(factor, layer_channels(base.conv.layer))
    return factor.reshape(shape[2:]) if keras_class(base.conv.layer) is keras.layers.DepthwiseConv2D else factor


def _bias(branch: _Branch) -> Any:
    return (bias_of(branch.conv.layer) if branch.conv else 0.0) * branch.factor + branch.offset


def _same(x: Any) -> Any:
    return x

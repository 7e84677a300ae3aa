"""Linear layers that follow each other become one: normalisation into convolution, dense into dense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tensorflow import keras

from facetrain.layers.dropout import SeededDropout
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

_layers = keras.layers
_NORMS = (_layers.BatchNormalization, _layers.experimental.SyncBatchNormalization)
_SEPARABLE = (_layers.SeparableConv1D, _layers.SeparableConv2D)
_DEPTHWISE = (_layers.DepthwiseConv1D, _layers.DepthwiseConv2D)
_TRANSPOSED = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)
_PLAIN = (_layers.Conv1D, _layers.Conv2D, _layers.Conv3D, _layers.Dense)
LINEAR = (*_PLAIN, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE)
# What lies between a normalisation and a dense layer without changing values in inference.
_BETWEEN = (_layers.Dropout, _layers.SpatialDropout2D, _layers.Flatten)


@surgery(repeat=True)
def fuse_conv_bn(model: keras.Model) -> Rebuilt:
    """Takes each batch normalisation into the convolution or dense layer before it.

    With s = gamma / sqrt(variance + epsilon): W' = W s for each output channel, b' = (b - mean) s + beta. Works for
    Conv1D/2D/3D, depthwise, separable and transposed convolutions and Dense, with or without bias, scale and centre;
    not where the layer has an activation, is called more than once, or its output is used elsewhere. For use, not for
    further training: the statistics of the batch are gone.

    Args:
        model: a functional or sequential model; stays as it is.
    Returns:
        A functional model, not compiled. The layer keeps its name, or takes that of the normalisation if that was an
        output.
    Raises:
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        edits: dict[Call, Edit] = {}
        for call in graph.calls:
            norm = graph.next_plain(call)
            if norm and call not in edits and _is_linear(rebuild, call) and _is_norm(rebuild, norm, call):
                edits[call] = Edit(_with_norm(rebuild, call.layer, norm.layer, graph.is_output(norm.outputs)), False)
                edits[norm] = Edit(_same)
        return edits

    return Rebuild(model, plan).run()


@surgery(repeat=True)
def fuse_bn_dense(model: keras.Model) -> Rebuilt:
    """Takes each batch normalisation into the dense layer after it, through a Flatten or a dropout between them.

    With s = gamma / sqrt(variance + epsilon), t = beta - mean s: W' = s W for each input, b' = b + t W. The dense layer
    may have an activation. For use, not for further training.

    Args:
        model: a functional or sequential model; stays as it is.
    Returns:
        A functional model, not compiled.
    Raises:
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        edits: dict[Call, Edit] = {}
        for call in graph.calls:
            if not _is_norm(rebuild, call):
                continue
            path = [call]
            while (follower := graph.next_plain(path[-1])) and _passes(rebuild, follower.layer):
                path.append(follower)
            dense = graph.next_plain(path[-1])
            if dense and keras_class(dense.layer) is _layers.Dense and not rebuild.is_shared(dense.layer):
                edits[dense] = Edit(_after_norm(rebuild, call.layer, dense.layer))
                edits.update({passed: Edit(None, False) for passed in path[1:]})
                edits[call] = Edit(_same, False)
        return edits

    return Rebuild(model, plan).run()


@surgery(repeat=True)
def fuse_consecutive_dense(model: keras.Model, always: bool = False) -> Rebuilt:
    """Multiplies dense layers that follow each other without an activation between them.

    W = W1 W2, b = b1 W2 + b2.

    Args:
        model: a functional or sequential model; stays as it is.
        always: fuse too where the product has more weights than the two, as at a bottleneck.
    Returns:
        A functional model, not compiled; the new layer has the name of the last.
    Raises:
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        edits: dict[Call, Edit] = {}
        for call in graph.calls:
            last = graph.next_plain(call)
            if last is None or call in edits or not all(_is_dense(rebuild, one) for one in (call, last)):
                continue
            if call.layer.activation is keras.activations.linear and (always or _shrinks(call.layer, last.layer)):
                edits[call] = Edit(_same, False)
                edits[last] = Edit(_product(rebuild, call.layer, last.layer))
        return edits

    return Rebuild(model, plan).run()


def norm_factors(norm: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Returns factor and offset, float64 [C] each, by which a batch normalisation acts in inference."""
    mean, variance = (np.float64(w.numpy()) for w in (norm.moving_mean, norm.moving_variance))
    factor = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor = factor * np.float64(norm.gamma.numpy())
    offset = -mean * factor
    return factor, offset + np.float64(norm.beta.numpy()) if norm.center else offset


def scaled_kernels(layer: keras.layers.Layer, factor: np.ndarray) -> list[np.ndarray]:
    """Returns the kernels of a linear layer, float64, with each output channel multiplied by a factor [C]."""
    cls = keras_class(layer)
    kernels = [np.float64(weight.numpy()) for weight in layer.weights]
    if layer.use_bias:
        kernels = kernels[:-1]
    if cls in _DEPTHWISE:
        return [kernels[0] * factor.reshape(kernels[0].shape[-2:])]
    if cls in _TRANSPOSED:
        return [kernels[0] * factor[:, None]]
    return [*kernels[:-1], kernels[-1] * factor]


def bias_of(layer: keras.layers.Layer) -> np.ndarray | float:
    """Returns the bias of a linear layer, float64 [C], or 0."""
    return np.float64(layer.bias.numpy()) if layer.use_bias else 0.0


def is_norm(layer: keras.layers.Layer) -> bool:
    """Whether a layer is batch normalisation over one axis."""
    return keras_class(layer) in _NORMS and len(layer.axis) == 1


def _is_linear(rebuild: Rebuild, call: Call) -> bool:
    layer = call.layer
    if keras_class(layer) not in LINEAR or rebuild.is_shared(layer):
        return False
    return layer.activation is keras.activations.linear


def _is_norm(rebuild: Rebuild, call: Call, before: Call | None = None) -> bool:
    if not call.is_plain or not is_norm(call.layer) or rebuild.is_shared(call.layer):
        return False
    axis, last = call.layer.axis[0], len(call.outputs.shape) - 1
    channels_first = before is not None and getattr(before.layer, "data_format", None) == "channels_first"
    return axis == (1 if channels_first else last)


def _is_dense(rebuild: Rebuild, call: Call) -> bool:
    return keras_class(call.layer) is _layers.Dense and not rebuild.is_shared(call.layer)


def _with_norm(
    rebuild: Rebuild, layer: keras.layers.Layer, norm: keras.layers.Layer, is_output: bool
) -> keras.layers.Layer:
    factor, offset = norm_factors(norm)
    bias = bias_of(layer) * factor + offset
    changes: dict[str, Any] = {"use_bias": True}
    if is_output:
        changes["name"] = norm.name
    if norm.compute_dtype != layer.compute_dtype:
        changes["dtype"] = norm.dtype_policy.name  # that of the output, as in an embedding that stays float32
    return rebuild.weighted(rebuild.copy(layer, **changes), _narrowed([*scaled_kernels(layer, factor), bias], layer))


def _after_norm(rebuild: Rebuild, norm: keras.layers.Layer, dense: keras.layers.Layer) -> keras.layers.Layer:
    kernel = np.float64(dense.kernel.numpy())
    # A flattened map has its channels in turn.
    repeats = len(kernel) // norm.moving_mean.shape[0]
    factor, offset = (np.tile(values, repeats) for values in norm_factors(norm))
    arrays = [kernel * factor[:, None], bias_of(dense) + offset @ kernel]
    return rebuild.weighted(rebuild.copy(dense, use_bias=True), _narrowed(arrays, dense))


def _product(rebuild: Rebuild, first: keras.layers.Layer, last: keras.layers.Layer) -> keras.layers.Layer:
    kernels = [np.float64(layer.kernel.numpy()) for layer in (first, last)]
    use_bias = first.use_bias or last.use_bias
    arrays = [kernels[0] @ kernels[1]]
    if use_bias:
        carried = bias_of(first) @ kernels[1] if first.use_bias else 0.0
        arrays.append(carried + bias_of(last))
    return rebuild.weighted(rebuild.copy(last, use_bias=use_bias), _narrowed(arrays, last))


def _shrinks(first: keras.layers.Layer, last: keras.layers.Layer) -> bool:
    before, after = (math.prod(layer.kernel.shape) for layer in (first, last))
    return first.kernel.shape[0] * last.units <= before + after


def _passes(rebuild: Rebuild, layer: keras.layers.Layer) -> bool:
    """Whether a layer leaves values as they are in inference, or puts them in a row with channels last."""
    if rebuild.is_shared(layer) or getattr(layer, "data_format", "channels_last") != "channels_last":
        return False
    return keras_class(layer) in _BETWEEN or isinstance(layer, SeededDropout)


def _narrowed(arrays: list[Any], layer: keras.layers.Layer) -> list[np.ndarray]:
    return [np.asarray(array, layer.variable_dtype) for array in arrays]


def _same(x: Any) -> Any:
    return x

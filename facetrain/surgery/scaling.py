"""Pixel scaling and channel order inside the model, so that it takes pixels as they come."""

from __future__ import annotations

import dataclasses

import numpy as np
from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.images import DEFAULT_SCALING, get_scaling
from facetrain.surgery.fusing import bias_of
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

CHANNEL_ORDERS = ("RGB", "BGR")
BORDERS = ("exact", "approximate")


@surgery(exact=lambda borders, **others: borders == "exact")
def fold_input_scaling(
    model: keras.Model, scaling: str = DEFAULT_SCALING, channel_order: str = "RGB", borders: str = "exact"
) -> Rebuilt:
    """Returns a model of pixels in 0..255 that gives what ``model`` gives for the scaled ones.

    With pixels p and (p - offset) / scale going in: W' = W / scale, b' = b - offset / scale times the sum of W over
    its taps. At a border that is padded with zeros this is not equal, for zero means the pixel ``offset`` there: unless
    the offset is 0 or nothing is padded, the scaling then becomes a 1x1 convolution of its own, in front.

    Args:
        model: a functional or sequential model of one image [B, H, W, C]; stays as it is.
        scaling: a name of ``facetrain.images.SCALINGS``: what the model expects.
        channel_order: what the new model is given; the old one takes ``"RGB"``.
        borders: ``"approximate"`` folds into the first convolution even if the outermost outputs change.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: for an unknown scaling or order, or a model of anything but one image.
        SurgeryError: if the outputs differ.
    """
    offset, scale = get_scaling(scaling)
    for what, value, known in (("channel_order", channel_order, CHANNEL_ORDERS), ("borders", borders, BORDERS)):
        if value not in known:
            hint = did_you_mean(value, known)
            raise InputError(f"{what} must be {' or '.join(known)}, received {value!r}{hint}")
    shape = tuple(model.inputs[0].shape)
    if len(model.inputs) != 1 or len(shape) != 4 or shape[-1] is None or (channel_order == "BGR" and shape[-1] != 3):
        raise InputError(
            "scaling is folded into models of one image [B, H, W, 3], received inputs of shape "
            f"{[list(tensor.shape) for tensor in model.inputs]}"
        )
    source = model.inputs[0]

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        if graph.model is not model:
            return {}
        first = graph.only_user(source)
        if first and _takes_scaling(rebuild, first, borders == "exact" and offset != 0.0):
            return {first: Edit(_scaled_conv(rebuild, first.layer, offset, scale, channel_order))}
        entry = graph.maker(source)
        return {entry: Edit(_scaling_conv(rebuild, entry.layer.dtype, shape[-1], offset, scale, channel_order), False)}

    rebuilt = Rebuild(model, plan).run()
    order = slice(None, None, -1 if channel_order == "BGR" else 1)
    return dataclasses.replace(
        rebuilt,
        to_source=lambda arrays: [((arrays[0][..., order] - offset) / scale).astype(arrays[0].dtype)],
        to_range=lambda arrays: [(128.0 + 64.0 * arrays[0]).clip(0, 255).astype(arrays[0].dtype)],
    )


def _takes_scaling(rebuild: Rebuild, call: Call, whole: bool) -> bool:
    """Whether a call can take scaling into its weights; ``whole`` asks that it adds no zeros around the image."""
    layer = call.layer
    if not call.is_plain or rebuild.is_shared(layer) or keras_class(layer) is not keras.layers.Conv2D:
        return False
    if layer.data_format != "channels_last" or layer.groups != 1:
        return False
    return not whole or layer.padding == "valid" or set(layer.kernel_size) == {1}


def _scaled_conv(
    rebuild: Rebuild, layer: keras.layers.Layer, offset: float, scale: float, channel_order: str
) -> keras.layers.Layer:
    kernel = np.float64(layer.kernel.numpy()) / scale
    bias = bias_of(layer) - offset * kernel.sum(axis=(0, 1, 2))
    use_bias = layer.use_bias or offset != 0.0
    if channel_order == "BGR":
        kernel = kernel[:, :, ::-1]
    arrays = [np.asarray(array, layer.variable_dtype) for array in (kernel, bias)[: 1 + use_bias]]
    return rebuild.weighted(rebuild.copy(layer, use_bias=use_bias), arrays)


def _scaling_conv(
    rebuild: Rebuild, dtype: str, channels: int, offset: float, scale: float, channel_order: str
) -> keras.layers.Layer:
    """Returns a 1x1 convolution that scales pixels and puts channels in order."""
    kernel = np.eye(channels) / scale
    if channel_order == "BGR":
        kernel = kernel[::-1]
    name = rebuild.name("pixel_scaling")
    conv = keras.layers.Conv2D(channels, 1, dtype=dtype, trainable=False, name=name)
    return rebuild.weighted(conv, [kernel[None, None], np.full(channels, -offset / scale)])

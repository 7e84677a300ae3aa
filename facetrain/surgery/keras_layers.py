"""Layers of this package as those of Keras, for tools that load a model where this package is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.layers.activations import HardSigmoid, HardSwish
from facetrain.layers.depthwise import FastDepthwiseConv2D
from facetrain.layers.drop_path import DropPath
from facetrain.layers.dropout import SeededDropout
from facetrain.layers.norm import FastBatchNormalization
from facetrain.layers.prelu import FastPReLU
from facetrain.surgery.graph import Call, Graph, keras_class
from facetrain.surgery.layer_copy import layer_config
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Edit, Rebuild, Rebuilt

# The same functions and weights as those of Keras; only their gradients are computed otherwise.
_FASTER = (FastBatchNormalization, FastDepthwiseConv2D, FastPReLU)
Make = Callable[..., tf.Tensor]


@surgery()
def to_keras_layers(model: keras.Model) -> Rebuilt:
    """Replaces layers of this package by those of Keras that compute the same, so that a file loads without it.

    The faster PReLU, depthwise convolution and batch normalisation become the plain ones, repeatable dropout and
    stochastic depth ``Dropout``, the hard sigmoid and swish ``Rescaling``, ``ReLU`` and ``Multiply``. Grouped
    convolutions stay for ``split_group_conv``; layers that Keras has nothing for stay as well.

    Args:
        model: a functional or sequential model; stays as it is.
    Returns:
        A functional model, not compiled. Training it draws other dropout masks and is slower on CPUs.
    Raises:
        SurgeryError: if the outputs differ.
    """

    def plan(graph: Graph, rebuild: Rebuild) -> dict[Call, Edit]:
        calls = [call for call in graph.calls if type(call.layer) in _MAKERS]
        made = {id(call.layer): call for call in calls}
        parts = {key: _MAKERS[type(call.layer)](rebuild, call) for key, call in made.items()}
        return {call: Edit(parts[id(call.layer)]) for call in calls}

    return Rebuild(model, plan).run()


def _plain(rebuild: Rebuild, call: Call) -> Make:
    layer = call.layer
    new = rebuild.inherit(keras_class(layer).from_config(layer_config(layer)), layer)
    # Of the three only normalisation knows in Keras whether it is trained.
    return new if isinstance(layer, FastBatchNormalization) else lambda x, training=None: new(x)


def _dropout(rebuild: Rebuild, call: Call) -> Make:
    layer, rank = call.layer, len(call.outputs.shape)
    noise = (None, *(1,) * (rank - 1)) if isinstance(layer, DropPath) else None
    return keras.layers.Dropout(layer.rate, noise, layer.seed, dtype=layer.dtype_policy, name=layer.name)


def _hard_sigmoid(rebuild: Rebuild, call: Call) -> Make:
    clipped = _clipped(rebuild, call.layer)
    share = keras.layers.Rescaling(1.0 / 6.0, dtype=call.layer.dtype_policy, name=call.layer.name)
    return lambda x: share(clipped(x))


def _hard_swish(rebuild: Rebuild, call: Call) -> Make:
    layer = call.layer
    clipped = _clipped(rebuild, layer)
    product = keras.layers.Multiply(dtype=layer.dtype_policy, name=rebuild.name(f"{layer.name}_product"))
    share = keras.layers.Rescaling(1.0 / 6.0, dtype=layer.dtype_policy, name=layer.name)
    return lambda x: share(product([x, clipped(x)]))


def _clipped(rebuild: Rebuild, layer: keras.layers.Layer) -> Make:
    """Returns relu6(x + 3)."""
    names = [rebuild.name(f"{layer.name}_{part}") for part in ("shift", "clip")]
    shift = keras.layers.Rescaling(1.0, 3.0, dtype=layer.dtype_policy, name=names[0])
    clip = keras.layers.ReLU(6.0, dtype=layer.dtype_policy, name=names[1])
    return lambda x: clip(shift(x))


_MAKERS: dict[type, Callable[[Rebuild, Call], Any]] = {
    **dict.fromkeys(_FASTER, _plain),
    SeededDropout: _dropout,
    DropPath: _dropout,
    HardSigmoid: _hard_sigmoid,
    HardSwish: _hard_swish,
}

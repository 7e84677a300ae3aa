"""Networks without weights and without tracing: what the largest of them weighs, in a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import tensorflow as tf
from keras.src.engine import base_layer, keras_tensor
from tensorflow import keras

from facetrain import backbones


class _Weight(NamedTuple):
    shape: tf.TensorShape
    trainable: bool


def _add_weight(layer: Any, name: str = "", shape: Any = (), trainable: bool = True, **arguments: Any) -> _Weight:
    weight = _Weight(tf.TensorShape(shape), trainable)
    (layer._trainable_weights if trainable else layer._non_trainable_weights).append(weight)
    return weight


def _symbolic_call(layer: Any, inputs: Any, input_masks: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(layer, keras.Sequential):
        layer._build_graph_network_for_inferred_shape(inputs.shape, inputs.dtype)
    layer._maybe_build(inputs)
    shapes = tf.nest.map_structure(lambda tensor: tensor.shape, inputs)
    try:
        shape = layer.compute_output_shape(shapes)
    except NotImplementedError:
        # Layers inside keras.applications that say nothing: scales, sums and products keep their first input's shape.
        shape = tf.nest.flatten(inputs)[0].shape
    several = isinstance(shape, list) and all(isinstance(one, tf.TensorShape) for one in shape)
    made = [
        keras_tensor.KerasTensor(tf.TensorSpec(one, layer.compute_dtype)) for one in (shape if several else [shape])
    ]
    return made if several else made[0]


@contextmanager
def shapes_only() -> Iterator[None]:
    """Layers that are called here know their shapes and those of their weights, and nothing else."""
    replaced = {"add_weight": _add_weight, "_keras_tensor_symbolic_call": _symbolic_call}
    with mock.patch.multiple(base_layer.Layer, **replaced):
        with mock.patch.object(keras.layers.Normalization, "finalize_state", lambda layer: None):
            yield


def weigh(spec: Any, input_shape: tuple[int, ...] = (112, 112, 3)) -> tuple[int, int, tuple[int, ...]]:
    """Returns a backbone's parameters, multiply-adds and feature shape."""
    with shapes_only():
        model = backbones.create_backbone(spec, input_shape)
    return model.count_params(), backbones.count_flops(model), model.output_shape[1:]

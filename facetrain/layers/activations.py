"""Activations that Keras has not, and the one place that turns a name into an activation layer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.layers.prelu import FastPReLU
from facetrain.serialization import serializable

# PReLU starts as in the paper (He et al., ICCV 2015, arXiv 1502.01852), not as in Keras, which starts at zero.
PRELU_START = 0.25
LEAKY_SLOPE = 0.1


class _Pointwise(keras.layers.Layer):
    """Base of layers whose output is shaped as the input."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape


@serializable
class HardSigmoid(_Pointwise):
    """relu6(x + 3) / 6: a sigmoid of three straight pieces; the one of Keras has another slope.

    Reference: Howard et al., MobileNetV3, ICCV 2019, arXiv 1905.02244.

    Call arguments: inputs of any shape and float type.
    Returns: a tensor like ``inputs``, in [0, 1].
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the activation."""
        return tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@serializable
class HardSwish(_Pointwise):
    """x * relu6(x + 3) / 6: swish with a sigmoid of three straight pieces.

    Reference: Howard et al., MobileNetV3, ICCV 2019, arXiv 1905.02244.

    Call arguments: inputs of any shape and float type.
    Returns: a tensor like ``inputs``.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the activation."""
        # In this order TensorFlow Lite makes one operation of it.
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@serializable
class AconC(_Pointwise):
    """ACON-C: (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x, all three learned for each channel.

    A smooth maximum of p1 x and p2 x; starts as swish (p1 = 1, p2 = 0, beta = 1). Reference: Ma et al., CVPR 2021,
    arXiv 2009.04759.

    Call arguments: inputs [B, ..., C] of known C and any float type.
    Returns: a tensor like ``inputs``.
    Weights: ``p1``, ``p2``, ``beta``, each [C].
    """

    def build(self, input_shape: Any) -> None:
        """Creates the three weights of each channel."""
        channels = (input_shape[-1],)
        self.p1 = self.add_weight(name="p1", shape=channels, initializer="ones")
        self.p2 = self.add_weight(name="p2", shape=channels, initializer="zeros")
        self.beta = self.add_weight(name="beta", shape=channels, initializer="ones")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the activation."""
        p2 = tf.convert_to_tensor(self.p2)
        difference = (self.p1 - p2) * inputs
        return difference * tf.sigmoid(self.beta * difference) + p2 * inputs


_OWN = {"hswish": HardSwish, "hsigmoid": HardSigmoid, "aconc": AconC}
ACTIVATIONS = (
    "prelu",
    "relu",
    "relu6",
    "leaky_relu",
    "swish",
    "hswish",
    "gelu",
    "aconc",
    "sigmoid",
    "hsigmoid",
    "linear",
)


def activation_layer(kind: str, name: str | None = None, dtype: Any = None) -> keras.layers.Layer:
    """Returns a new layer for the name of an activation.

    Args:
        kind: ``"prelu"`` (one slope a channel), ``"leaky_relu"`` (slope 0.1), ``"hswish"``, ``"hsigmoid"``,
            ``"aconc"``, any name ``keras.activations`` knows (``"relu"``, ``"swish"``, ``"gelu"``), or ``"linear"``.
        name: name of the layer.
        dtype: its precision policy, or None for the global one.
    Raises:
        InputError: for an unknown name.
    """
    if kind in _OWN:
        return _OWN[kind](name=name, dtype=dtype)
    if kind == "prelu":
        slope = keras.initializers.Constant(PRELU_START)
        return FastPReLU(alpha_initializer=slope, shared_axes=[1, 2], name=name, dtype=dtype)
    if kind == "leaky_relu":
        return keras.layers.LeakyReLU(LEAKY_SLOPE, name=name, dtype=dtype)
    try:
        return keras.layers.Activation(kind, name=name, dtype=dtype)
    except (ValueError, TypeError) as error:
        hint = did_you_mean(str(kind), ACTIVATIONS)
        known = f"one of {', '.join(ACTIVATIONS)} or another that Keras knows"
        raise InputError(f"activation must be {known}, received {kind!r}{hint}") from error

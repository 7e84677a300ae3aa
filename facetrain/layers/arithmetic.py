"""Arithmetic on tensors that Keras has no layers for; graphs of other software consist of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.serialization import serializable

FUNCTIONS = {
    "abs": tf.abs,
    "ceil": tf.math.ceil,
    "cos": tf.cos,
    "erf": tf.math.erf,
    "exp": tf.exp,
    "floor": tf.floor,
    "log": tf.math.log,
    "reciprocal": tf.math.reciprocal,
    "sign": tf.sign,
    "sin": tf.sin,
    "sqrt": tf.sqrt,
    "square": tf.square,
}


@serializable
class Affine(keras.layers.Layer):
    """inputs * scale + offset with learned factors and terms, one for each place of ``shape``.

    Args:
        shape: of the weights, without the batch axis; axes of length 1 are shared.
        use_scale: whether there are factors; they start at one.
        use_offset: whether there are terms; they start at zero.
    Call arguments: inputs [B, ...] of the rank of ``shape`` and one.
    Returns: [B, ...], the inputs broadcast with the weights.
    Raises: InputError if it would do nothing.
    """

    def __init__(self, shape: Sequence[int], use_scale: bool = True, use_offset: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        if not (use_scale or use_offset):
            raise InputError("Affine needs use_scale or use_offset, received neither")
        self.shape, self.use_scale, self.use_offset = tuple(shape), use_scale, use_offset

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.scale = self.add_weight(name="scale", shape=self.shape, initializer="ones") if self.use_scale else None
        self.offset = self.add_weight(name="offset", shape=self.shape, initializer="zeros") if self.use_offset else None
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the scaled and shifted inputs."""
        outputs = inputs if self.scale is None else inputs * self.scale
        return outputs if self.offset is None else outputs + self.offset

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the inputs, broadcast with the weights."""
        return tf.broadcast_static_shape(tf.TensorShape(input_shape), tf.TensorShape((1, *self.shape)))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        own = {"shape": list(self.shape), "use_scale": self.use_scale, "use_offset": self.use_offset}
        return {**super().get_config(), **own}


@serializable
class Clip(keras.layers.Layer):
    """max(lower, min(upper, inputs)); a bound that is None does not bind.

    Args:
        lower, upper: the bounds, at least one of them, lower <= upper.
    Call arguments: inputs of any shape and float type.
    Returns: a tensor like ``inputs``.
    Raises: InputError for bounds that leave nothing or do nothing.
    """

    def __init__(self, lower: Optional[float] = None, upper: Optional[float] = None, **kwargs: Any):
        super().__init__(**kwargs)
        if (lower is None and upper is None) or (None not in (lower, upper) and lower > upper):
            raise InputError(f"Clip needs a lower or an upper bound, lower <= upper, received {lower!r} and {upper!r}")
        self.lower, self.upper = lower, upper

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the bounded inputs."""
        outputs = inputs if self.upper is None else tf.minimum(inputs, tf.cast(self.upper, inputs.dtype))
        return outputs if self.lower is None else tf.maximum(outputs, tf.cast(self.lower, inputs.dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "lower": self.lower, "upper": self.upper}


@serializable
class Elementwise(keras.layers.Layer):
    """A function of each element that is no activation of Keras.

    Args:
        function: a key of ``FUNCTIONS``: ``sqrt``, ``reciprocal``, ``erf``, ...
    Call arguments: inputs of any shape and float type.
    Returns: a tensor like ``inputs``.
    Raises: InputError for an unknown function.
    """

    def __init__(self, function: str, **kwargs: Any):
        super().__init__(**kwargs)
        check_name("function", function, FUNCTIONS)
        self.function = function

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the function of each element."""
        return FUNCTIONS[self.function](inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "function": self.function}


@serializable
class Power(keras.layers.Layer):
    """inputs ** exponent.

    Args:
        exponent: any number; inputs below zero need a whole one.
    Call arguments: inputs of any shape and float type.
    Returns: a tensor like ``inputs``.
    """

    def __init__(self, exponent: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.exponent = float(exponent)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the power of each element."""
        return tf.pow(inputs, tf.cast(self.exponent, inputs.dtype))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "exponent": self.exponent}


def check_name(what: str, name: str, known: Any) -> None:
    """Raises InputError, with the nearest spellings, if ``name`` is not a key of ``known``."""
    if name not in known:
        raise InputError(f"{what} must be one of {', '.join(known)}, received {name!r}{did_you_mean(name, known)}")

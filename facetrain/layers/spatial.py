"""Padding, cutting and resizing that Keras has no layers for; graphs of other software consist of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.serialization import serializable

PADDING_MODES = ("constant", "edge", "reflect", "wrap")


@serializable
class Padding(keras.layers.Layer):
    """Padding of any axis with a constant, the nearest value, the mirror image or the other end.

    Args:
        pads: (before, after) for each axis but the batch axis.
        mode: ``constant``, ``edge``, ``reflect`` (the edge itself is not repeated) or ``wrap``.
        value: of the constant.
    Call arguments: inputs [B, ...] of known shape.
    Returns: [B, ...].
    Raises: InputError for an unknown mode or pads below 0.
    """

    def __init__(self, pads: Sequence[Sequence[int]], mode: str = "constant", value: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        if mode not in PADDING_MODES:
            raise InputError(f"mode must be one of {', '.join(PADDING_MODES)}, received {mode!r}")
        if any(len(pair) != 2 or min(pair) < 0 for pair in pads):
            raise InputError(f"pads must be pairs (before, after) from 0 on, received {pads!r}")
        self.pads, self.mode, self.value = tuple((int(a), int(b)) for a, b in pads), mode, float(value)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the padded inputs."""
        if self.mode == "constant":
            return tf.pad(inputs, [(0, 0), *self.pads], constant_values=tf.cast(self.value, inputs.dtype))
        for axis, (before, after) in enumerate(self.pads, start=1):
            if before or after:
                places = np.pad(np.arange(inputs.shape[axis]), (before, after), self.mode)
                inputs = tf.gather(inputs, places, axis=axis)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape with the pads added."""
        batch, *dims = tuple(input_shape)
        return tf.TensorShape([batch, *(d + before + after for d, (before, after) in zip(dims, self.pads))])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        pads = [list(pair) for pair in self.pads]
        return {**super().get_config(), "pads": pads, "mode": self.mode, "value": self.value}


@serializable
class Slice(keras.layers.Layer):
    """A range of one axis: inputs[..., start:stop:step, ...].

    Args:
        axis: axis from 1 on.
        start, stop: as in Python; None for the end of the axis.
        step: any but 0; below 0 the order is turned.
    Call arguments: inputs [B, ...] of known shape.
    Returns: [B, ...].
    Raises: InputError for the batch axis or step 0.
    """

    def __init__(
        self, axis: int, start: Optional[int] = None, stop: Optional[int] = None, step: int = 1, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if axis < 1 or step == 0:
            raise InputError(f"Slice needs an axis from 1 on and a step other than 0, received {axis} and {step}")
        self.axis, self.start, self.stop, self.step = axis, start, stop, step

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the range."""
        before = [slice(None)] * self.axis
        return inputs[(*before, slice(self.start, self.stop, self.step))]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape with the range's length."""
        dims = list(tuple(input_shape))
        dims[self.axis] = len(range(*slice(self.start, self.stop, self.step).indices(dims[self.axis])))
        return tf.TensorShape(dims)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        own = {"axis": self.axis, "start": self.start, "stop": self.stop, "step": self.step}
        return {**super().get_config(), **own}


@serializable
class Interpolation(keras.layers.Layer):
    """Resizing by any rule that is linear: each output row and column is a fixed mixture of input rows and columns.

    Args:
        height, width: of the output, pixels.
    Call arguments: inputs [B, H, W, C] of known shape.
    Returns: [B, height, width, C].
    Weights, not trained: ``rows`` [height, H] and ``columns`` [width, W]; they start as zeros.
    Raises: InputError for an empty output.
    """

    def __init__(self, height: int, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        if min(height, width) < 1:
            raise InputError(f"Interpolation needs a height and a width of at least 1, received {height}x{width}")
        self.height, self.width = height, width

    def build(self, input_shape: Any) -> None:
        """Creates the two matrices."""
        shapes = {"rows": (self.height, input_shape[1]), "columns": (self.width, input_shape[2])}
        self.rows, self.columns = (
            self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)
            for name, shape in shapes.items()
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the resized maps."""
        return tf.einsum("yh,bhwc,xw->byxc", self.rows, inputs, self.columns)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns [B, height, width, C]."""
        shape = tuple(input_shape)
        return tf.TensorShape([shape[0], self.height, self.width, shape[3]])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "height": self.height, "width": self.width}

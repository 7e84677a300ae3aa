"""Grouped convolution that trains, is fused and is exported on CPUs too."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from facetrain.serialization import serializable

# Groups are taken together up to this many channels: the zeros between them cost less than further small convolutions.
_BLOCK_CHANNELS = 32


@serializable
class GroupedConv2D(keras.layers.Conv2D):
    """keras.layers.Conv2D with several groups: same arguments, weights and output.

    TensorFlow's CPU kernels have no gradient for groups and cannot fuse them, so Keras has each such layer compiled by
    XLA, which is slow and cannot be exported. Here the channels are split; groups of few channels share one
    convolution whose kernel has zeros between them, and those of one channel are a depthwise convolution. On GPUs it is
    the grouped kernel of cuDNN.

    Args and shapes: as in keras.layers.Conv2D, channels last.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the convolution [B, H', W', filters]."""
        if tf.config.get_visible_devices("GPU"):
            outputs = self.convolution_op(inputs, self.kernel)
        elif self.kernel.shape[2] == 1 and self.strides[0] == self.strides[1] and self.padding in ("same", "valid"):
            kernel = tf.reshape(self.kernel, [*self.kernel_size, self.groups, -1])
            strides = [1, *self.strides, 1]
            outputs = tf.nn.depthwise_conv2d(
                inputs, kernel, strides, self.padding.upper(), dilations=self.dilation_rate
            )
        else:
            kernels = _block_kernels(tf.convert_to_tensor(self.kernel), self.groups)
            parts = tf.split(inputs, len(kernels), axis=-1)
            outputs = tf.concat([self.convolution_op(part, k) for part, k in zip(parts, kernels)], axis=-1)
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)


def _block_kernels(kernel: tf.Tensor, groups: int) -> list[tf.Tensor]:
    """Cuts a kernel [h, w, C / groups, filters] into block-diagonal ones for neighbouring groups taken together."""
    height, width, channels, filters = kernel.shape
    together = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * channels <= _BLOCK_CHANNELS))
    blocks, per_group = groups // together, filters // groups
    apart = tf.reshape(kernel, [height, width, 1, channels, blocks, together, per_group])
    diagonal = tf.reshape(tf.eye(together, dtype=kernel.dtype), [1, 1, together, 1, 1, together, 1])
    wide = tf.reshape(apart * diagonal, [height, width, together * channels, blocks, together * per_group])
    return tf.unstack(wide, axis=3)

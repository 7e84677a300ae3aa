"""Makes the layers of one network with one set of conventions and readable names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.depthwise import FastDepthwiseConv2D
from facetrain.layers.prelu import FastPReLU

PADDINGS = ("same", "symmetric")

# PReLU starts as in the paper (He et al., ICCV 2015, arXiv 1502.01852), not as in Keras, which starts at zero.
PRELU_START = 0.25


@dataclass(frozen=True)
class LayerFactory:
    """Conventions of one network, and the layers made by them.

    Args:
        activation: ``"prelu"`` (one slope a channel), ``"leaky_relu"`` (slope 0.1), any name ``keras.activations``
            knows, or ``"linear"`` for none.
        bn_momentum: share of the old moving average that batch normalisation keeps, in [0, 1).
        bn_epsilon: added to the variance, above 0.
        kernel_initializer: Keras initialiser of convolution kernels.
        padding: how strides above 1 are padded: ``"same"`` as TensorFlow does (more at the far edge), ``"symmetric"``
            by half the kernel at each edge as PyTorch and MXNet do. Equal for stride 1.
        dtype: precision policy of the layers, or None for the global one.
    """

    activation: str = "prelu"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    kernel_initializer: Any = "glorot_uniform"
    padding: str = "same"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise InputError(f"padding must be one of {', '.join(PADDINGS)}, received {self.padding!r}")
        if not 0.0 <= self.bn_momentum < 1.0:
            raise InputError(f"bn_momentum must be in [0, 1), received {self.bn_momentum!r}")
        if self.bn_epsilon <= 0.0:
            raise InputError(f"bn_epsilon must be above 0, received {self.bn_epsilon!r}")
        if self.activation not in ("prelu", "leaky_relu"):
            try:
                keras.activations.get(self.activation)
            except ValueError as error:
                raise InputError(f"activation must be prelu, leaky_relu or one that Keras knows: {error}") from error

    def conv(self, x: tf.Tensor, filters: int, kernel: int, name: str, strides: int = 1) -> tf.Tensor:
        """Convolution without bias: [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), filters]."""
        x, padding = self._pad(x, kernel, strides, name)
        return keras.layers.Conv2D(
            filters,
            kernel,
            strides,
            padding=padding,
            use_bias=False,
            kernel_initializer=_fresh(self.kernel_initializer),
            dtype=self.dtype,
            name=name,
        )(x)

    def depthwise(self, x: tf.Tensor, kernel: int, name: str, strides: int = 1) -> tf.Tensor:
        """Depthwise convolution without bias: [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), C]."""
        x, padding = self._pad(x, kernel, strides, name)
        return FastDepthwiseConv2D(
            kernel,
            strides,
            padding=padding,
            use_bias=False,
            depthwise_initializer=_fresh(self.kernel_initializer),
            dtype=self.dtype,
            name=name,
        )(x)

    def norm(self, x: tf.Tensor, name: str, **arguments: Any) -> tf.Tensor:
        """Batch normalisation over the last axis; ``arguments`` go to the Keras layer."""
        arguments.setdefault("dtype", self.dtype)
        return keras.layers.BatchNormalization(
            momentum=self.bn_momentum, epsilon=self.bn_epsilon, name=name, **arguments
        )(x)

    def act(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """The network's activation."""
        if self.activation == "prelu":
            slope = keras.initializers.Constant(PRELU_START)
            layer = FastPReLU(alpha_initializer=slope, shared_axes=[1, 2], dtype=self.dtype, name=name)
        elif self.activation == "leaky_relu":
            layer = keras.layers.LeakyReLU(0.1, dtype=self.dtype, name=name)
        else:
            layer = keras.layers.Activation(self.activation, dtype=self.dtype, name=name)
        return layer(x)

    def conv_norm(self, x: tf.Tensor, filters: int, kernel: int, name: str, strides: int = 1) -> tf.Tensor:
        """Convolution and batch normalisation, named ``<name>_conv`` and ``<name>_bn``."""
        return self.norm(self.conv(x, filters, kernel, f"{name}_conv", strides), f"{name}_bn")

    def conv_norm_act(self, x: tf.Tensor, filters: int, kernel: int, name: str, strides: int = 1) -> tf.Tensor:
        """Convolution, batch normalisation and activation, the last named ``<name>_act``."""
        return self.act(self.conv_norm(x, filters, kernel, name, strides), f"{name}_act")

    def depthwise_norm_act(self, x: tf.Tensor, kernel: int, name: str, strides: int = 1) -> tf.Tensor:
        """Depthwise convolution (``<name>_conv``), batch normalisation and activation."""
        x = self.norm(self.depthwise(x, kernel, f"{name}_conv", strides), f"{name}_bn")
        return self.act(x, f"{name}_act")

    def add(self, x: tf.Tensor, shortcut: tf.Tensor, name: str) -> tf.Tensor:
        """Sum of a branch and its shortcut."""
        return keras.layers.Add(dtype=self.dtype, name=name)([x, shortcut])

    def _pad(self, x: tf.Tensor, kernel: int, strides: int, name: str) -> tuple[tf.Tensor, str]:
        if strides == 1 or kernel == 1 or self.padding == "same":
            return x, "same"
        return keras.layers.ZeroPadding2D(kernel // 2, dtype=self.dtype, name=f"{name}_pad")(x), "valid"


def _fresh(initializer: Any) -> Any:
    # Keras warns when one unseeded initialiser object fills two weights: each layer gets its own copy.
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.__class__.from_config(initializer.get_config())
    return keras.initializers.get(initializer)

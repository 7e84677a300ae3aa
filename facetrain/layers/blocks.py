"""Makes the layers of one network with one set of conventions and readable names."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Union

import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.activations import activation_layer
from facetrain.layers.depthwise import FastDepthwiseConv2D
from facetrain.layers.drop_path import DropPath
from facetrain.layers.dropout import SeededDropout
from facetrain.layers.grouped import GroupedConv2D
from facetrain.layers.norm import CHANNEL_BLOCK, FastBatchNormalization

PADDINGS = ("same", "symmetric")
Size = Union[int, tuple[int, int]]


@dataclass(frozen=True)
class LayerFactory:
    """Conventions of one network, and the layers made by them.

    Args:
        activation: ``"prelu"`` (one slope a channel), ``"relu"``, ``"swish"``, ``"hswish"``, ``"leaky_relu"`` (slope
            0.1), ``"gelu"``, ``"aconc"``, any other name ``keras.activations`` knows, or ``"linear"`` for none.
        bn_momentum: share of the old moving average that batch normalisation keeps, in [0, 1).
        bn_epsilon: added to the variance, above 0.
        kernel_initializer: Keras initialiser of convolution kernels.
        padding: how strides above 1 are padded: ``"same"`` as TensorFlow does (more at the far edge), ``"symmetric"``
            by half the kernel at each edge as PyTorch and MXNet do. Equal for stride 1.
        dtype: precision policy of the layers, or None for the global one.
        seed: of dropout and stochastic depth; each layer's own seed is made of this and its name.
    """

    activation: str = "prelu"
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    kernel_initializer: Any = "glorot_uniform"
    padding: str = "same"
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise InputError(f"padding must be one of {', '.join(PADDINGS)}, received {self.padding!r}")
        if not 0.0 <= self.bn_momentum < 1.0:
            raise InputError(f"bn_momentum must be in [0, 1), received {self.bn_momentum!r}")
        if self.bn_epsilon <= 0.0:
            raise InputError(f"bn_epsilon must be above 0, received {self.bn_epsilon!r}")
        activation_layer(self.activation)

    def conv(
        self,
        x: tf.Tensor,
        filters: int,
        kernel: Size,
        name: str,
        strides: int = 1,
        groups: int = 1,
        use_bias: bool = False,
        padding: str | None = None,
    ) -> tf.Tensor:
        """Convolution, by default without bias: [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), filters].

        ``padding`` (``"valid"`` or ``"same"``) is that of this convolution alone.
        """
        x, padding = (x, padding) if padding else self._pad(x, kernel, strides, name)
        layer = keras.layers.Conv2D if groups == 1 else GroupedConv2D
        return layer(
            filters,
            kernel,
            strides,
            padding=padding,
            groups=groups,
            use_bias=use_bias,
            kernel_initializer=_fresh(self.kernel_initializer),
            dtype=self.dtype,
            name=name,
        )(x)

    def depthwise(self, x: tf.Tensor, kernel: Size, name: str, strides: int = 1, use_bias: bool = False) -> tf.Tensor:
        """Depthwise convolution: [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), C]."""
        x, padding = self._pad(x, kernel, strides, name)
        return FastDepthwiseConv2D(
            kernel,
            strides,
            padding=padding,
            use_bias=use_bias,
            depthwise_initializer=_fresh(self.kernel_initializer),
            dtype=self.dtype,
            name=name,
        )(x)

    def max_pool(self, x: tf.Tensor, size: int, name: str, strides: int) -> tf.Tensor:
        """Largest value of each window: [B, H, W, C] -> [B, ceil(H / strides), ceil(W / strides), C].

        What symmetric padding adds are zeros, as in Keras; behind an activation below 0 that is not the same as none.
        """
        x, padding = self._pad(x, size, strides, name)
        return keras.layers.MaxPooling2D(size, strides, padding, dtype=self.dtype, name=name)(x)

    def norm(self, x: tf.Tensor, name: str, **arguments: Any) -> tf.Tensor:
        """Batch normalisation over the last axis; ``arguments`` go to the Keras layer."""
        arguments.setdefault("dtype", self.dtype)
        even = x.shape[-1] is not None and x.shape[-1] % CHANNEL_BLOCK == 0
        layer = keras.layers.BatchNormalization if even else FastBatchNormalization
        return layer(momentum=self.bn_momentum, epsilon=self.bn_epsilon, name=name, **arguments)(x)

    def act(self, x: tf.Tensor, name: str, activation: str | None = None) -> tf.Tensor:
        """The network's activation, or the one that is named; no layer for ``"linear"``."""
        kind = self.activation if activation is None else activation
        return x if kind == "linear" else activation_layer(kind, name, self.dtype)(x)

    def conv_norm(
        self, x: tf.Tensor, filters: int, kernel: Size, name: str, strides: int = 1, groups: int = 1
    ) -> tf.Tensor:
        """Convolution and batch normalisation, named ``<name>_conv`` and ``<name>_bn``."""
        return self.norm(self.conv(x, filters, kernel, f"{name}_conv", strides, groups), f"{name}_bn")

    def conv_norm_act(
        self, x: tf.Tensor, filters: int, kernel: Size, name: str, strides: int = 1, groups: int = 1
    ) -> tf.Tensor:
        """Convolution, batch normalisation and activation, the last named ``<name>_act``."""
        return self.act(self.conv_norm(x, filters, kernel, name, strides, groups), f"{name}_act")

    def depthwise_norm(self, x: tf.Tensor, kernel: Size, name: str, strides: int = 1) -> tf.Tensor:
        """Depthwise convolution and batch normalisation, named ``<name>_conv`` and ``<name>_bn``."""
        return self.norm(self.depthwise(x, kernel, f"{name}_conv", strides), f"{name}_bn")

    def depthwise_norm_act(self, x: tf.Tensor, kernel: Size, name: str, strides: int = 1) -> tf.Tensor:
        """Depthwise convolution (``<name>_conv``), batch normalisation and activation."""
        return self.act(self.depthwise_norm(x, kernel, name, strides), f"{name}_act")

    def squeeze_excite(
        self, x: tf.Tensor, reduced: int, name: str, activation: str | None = None, gate: str = "sigmoid"
    ) -> tf.Tensor:
        """Squeeze and excitation: each channel is multiplied by a gate that the means of all channels decide.

        Mean over the map (``<name>_pool``), 1x1 convolution with bias to ``reduced`` channels (``<name>_reduce``),
        activation (``<name>_act``), 1x1 convolution with bias back (``<name>_expand``), gate (``<name>_gate``), product
        (``<name>``). Reference: Hu et al., CVPR 2018, arXiv 1709.01507.

        Args:
            x: [B, H, W, C].
            reduced: number of channels in the middle.
            name: name of the product, and how the others begin.
            activation: of the middle; the network's by default.
            gate: ``"sigmoid"``, or ``"hsigmoid"``, which is cheaper.
        """
        y = keras.layers.GlobalAveragePooling2D(keepdims=True, dtype=self.dtype, name=f"{name}_pool")(x)
        y = self.act(self.conv(y, reduced, 1, f"{name}_reduce", use_bias=True), f"{name}_act", activation)
        y = self.act(self.conv(y, x.shape[-1], 1, f"{name}_expand", use_bias=True), f"{name}_gate", gate)
        return keras.layers.Multiply(dtype=self.dtype, name=name)([x, y])

    def dropout(self, x: tf.Tensor, rate: float, name: str) -> tf.Tensor:
        """Dropout of a share ``rate`` of the values; no layer if it is 0."""
        return x if rate == 0.0 else SeededDropout(rate, self._seed(name), dtype=self.dtype, name=name)(x)

    def add(self, x: tf.Tensor, shortcut: tf.Tensor, name: str, drop_path: float = 0.0) -> tf.Tensor:
        """Sum of a branch and its shortcut; the branch is dropped (``<name>_path``) at the rate ``drop_path``."""
        if drop_path != 0.0:
            path = f"{name}_path"
            x = DropPath(drop_path, self._seed(path), dtype=self.dtype, name=path)(x)
        return keras.layers.Add(dtype=self.dtype, name=name)([x, shortcut])

    def _seed(self, name: str) -> int:
        return self.seed + zlib.crc32(name.encode())

    def _pad(self, x: tf.Tensor, kernel: Size, strides: int, name: str) -> tuple[tf.Tensor, str]:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        if strides == 1 or height == width == 1 or self.padding == "same":
            return x, "same"
        edges = (height // 2, width // 2)
        return keras.layers.ZeroPadding2D(edges, dtype=self.dtype, name=f"{name}_pad")(x), "valid"


def _fresh(initializer: Any) -> Any:
    # Keras warns when one unseeded initialiser object fills two weights: each layer gets its own copy.
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.__class__.from_config(initializer.get_config())
    return keras.initializers.get(initializer)

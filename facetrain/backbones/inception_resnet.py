"""Inception-ResNet-v2: Inception modules whose scaled sums are added to their input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.backbones.checks import check_blocks, check_size
from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory, Size
from facetrain.layers.channels import check_stem_strides, scaled_channels

# A branch is a chain of convolutions, each (channels, kernel); those of stride 2 and the stem are written out below.
MIXED_5B = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
MODULES = {
    "block35": (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3))),
    "block17": (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1)))),
    "block8": (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1)))),
}
# The last convolution of each branch has stride 2; a pooling is the last branch.
MIXED_6A = (((384, 3),), ((256, 1), (256, 3), (384, 3)))
MIXED_7A = (((256, 1), (384, 3)), ((256, 1), (288, 3)), ((256, 1), (288, 3), (320, 3)))
SCALES = (0.17, 0.1, 0.2)
PADDINGS = ("valid", "same")


def inception_resnet_v2(
    input_shape: Sequence[int] = (112, 112, 3),
    blocks: Sequence[int] = (10, 20, 10),
    scales: Sequence[float] = SCALES,
    width: float = 1.0,
    stem_strides: int = 1,
    final_filters: int = 1536,
    padding: str = "valid",
    dropout: float = 0.0,
    seed: int = 0,
    activation: str = "relu",
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-3,
    kernel_initializer: Any = "glorot_uniform",
    dtype: str | None = None,
    name: str = "inception_resnet_v2",
) -> keras.Model:
    """Builds an Inception-ResNet-v2: 5x5 features of a 112x112 image, 7x7 with ``padding="same"``.

    Stem, one Inception module, then three groups of residual modules (35, 17 and 8 positions wide in the paper) with
    a reduction between each two; each module's output is scaled before it is added. The last module has neither scale
    nor activation. BN has no gamma. The paper's images are 299 wide: with its stem of stride 2 a crop of 112 would
    leave 2x2 features. Reference: Szegedy et al., Inception-v4, AAAI 2017, arXiv 1602.07261.

    Args:
        input_shape: (height, width, channels) of the scaled pixels.
        blocks: number of modules of each group.
        scales: factor of the modules' outputs of each group, in (0, 1].
        width: factor of every number of channels, rounded to a multiple of 8.
        stem_strides: stride of the first convolution, 1 or 2.
        final_filters: channels of the last 1x1 convolution; 0 leaves it out.
        padding: ``"valid"`` as in the paper, where two convolutions of the stem and all strides above 1 lose the
            edges (sides of at least 39, or 75 with ``stem_strides=2``), or ``"same"``, where nothing does.
        dropout: share of the features set to zero in training, in [0, 1).
        seed: of dropout.
        activation, bn_momentum, bn_epsilon, kernel_initializer, dtype: as in LayerFactory.
        name: name of the model.
    Returns:
        A model from pixels [B, H, W, C] to features [B, h, w, 1536 * width].
    Raises:
        InputError: if an argument is outside its range, or the input is too small.
    """
    check_blocks(blocks, len(SCALES))
    check_stem_strides(stem_strides)
    if len(scales) != len(SCALES) or any(not 0.0 < scale <= 1.0 for scale in scales):
        raise InputError(f"scales must be {len(SCALES)} numbers in (0, 1], received {tuple(scales)!r}")
    if padding not in PADDINGS:
        raise InputError(f"padding must be one of {', '.join(PADDINGS)}, received {padding!r}")
    if padding == "valid":
        check_size(input_shape, 39 if stem_strides == 1 else 75, f"with {padding=!s} and {stem_strides=}")
    make = LayerFactory(activation, bn_momentum, bn_epsilon, kernel_initializer, dtype=dtype, seed=seed)
    net = _Inception(make, width, padding)
    inputs = keras.Input(tuple(input_shape), name="pixels")
    x = net.stem(inputs, stem_strides)
    pooled = keras.layers.AveragePooling2D(3, 1, "same", dtype=dtype, name="mixed_5b_pool")(x)
    pooled = net.conv(pooled, 64, 1, "mixed_5b_pool")
    x = net.join([*net.branches(x, MIXED_5B, "mixed_5b"), pooled], "mixed_5b")
    for group, (kind, count, scale) in enumerate(zip(MODULES, blocks, scales)):
        if group > 0:
            x = net.reduction(x, (MIXED_6A, MIXED_7A)[group - 1], ("mixed_6a", "mixed_7a")[group - 1])
        for block in range(1, count + 1):
            last = kind == "block8" and block == count
            x = net.module(x, MODULES[kind], 1.0 if last else scale, f"{kind}_{block}", activate=not last)
    if final_filters:
        x = net.conv(x, final_filters, 1, "final")
    return keras.Model(inputs, make.dropout(x, dropout, "dropout"), name=name)


@dataclass(frozen=True)
class _Inception:
    """The parts of the network: ``width`` scales channels, ``padding`` is that of strides above 1."""

    make: LayerFactory
    width: float
    padding: str

    def conv(
        self, x: tf.Tensor, filters: int, kernel: Size, name: str, strides: int = 1, padding: str = "same"
    ) -> tf.Tensor:
        filters = scaled_channels(filters, self.width)
        x = self.make.conv(x, filters, kernel, f"{name}_conv", strides, padding=padding)
        return self.make.act(self.make.norm(x, f"{name}_bn", scale=False), f"{name}_act")

    def pool(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return keras.layers.MaxPooling2D(3, 2, self.padding, dtype=self.make.dtype, name=name)(x)

    def join(self, branches: list[tf.Tensor], name: str) -> tf.Tensor:
        return keras.layers.Concatenate(dtype=self.make.dtype, name=name)(branches)

    def stem(self, x: tf.Tensor, strides: int) -> tf.Tensor:
        x = self.conv(x, 32, 3, "stem_1", strides, self.padding)
        x = self.conv(x, 32, 3, "stem_2", padding=self.padding)
        x = self.pool(self.conv(x, 64, 3, "stem_3"), "stem_3_pool")
        x = self.conv(x, 80, 1, "stem_4")
        return self.pool(self.conv(x, 192, 3, "stem_5", padding=self.padding), "stem_5_pool")

    def branches(self, x: tf.Tensor, chains: Sequence[Any], name: str, strides: int = 1) -> list[tf.Tensor]:
        """Returns the output of each chain; the last convolution of a chain has the stride."""
        outputs = []
        for branch, chain in enumerate(chains):
            y = x
            for step, (filters, kernel) in enumerate(chain, start=1):
                stride, padding = (strides, self.padding) if strides > 1 and step == len(chain) else (1, "same")
                y = self.conv(y, filters, kernel, f"{name}_branch{branch}_{step}", stride, padding)
            outputs.append(y)
        return outputs

    def reduction(self, x: tf.Tensor, chains: Sequence[Any], name: str) -> tf.Tensor:
        return self.join([*self.branches(x, chains, name, strides=2), self.pool(x, f"{name}_pool")], name)

    def module(self, x: tf.Tensor, chains: Sequence[Any], scale: float, name: str, activate: bool) -> tf.Tensor:
        y = self.join(self.branches(x, chains, name), f"{name}_mixed")
        y = self.make.conv(y, x.shape[-1], 1, f"{name}_up_conv", use_bias=True)
        if scale != 1.0:
            y = keras.layers.Rescaling(scale, dtype=self.make.dtype, name=f"{name}_scale")(y)
        x = self.make.add(y, x, f"{name}_add")
        return self.make.act(x, f"{name}_act") if activate else x

"""Random state dicts in the names of other software, as narrow and shallow as their form allows."""

from __future__ import annotations

import numpy as np

State = dict[str, np.ndarray]


class Maker:
    """Collects random tensors by name."""

    def __init__(self, names: str = "torch", seed: int = 0):
        self.rng, self.state = np.random.default_rng(seed), {}
        self.torch = names == "torch"

    def kernel(self, name: str, *shape: int) -> None:
        """A kernel or matrix, scaled so that activations stay near 1."""
        fan_in = int(np.prod(shape[1:]))
        value = self.rng.standard_normal(shape) / np.sqrt(fan_in)
        self.state[f"{name}{'.' if self.torch else '_'}weight"] = value.astype(np.float32)

    def norm(self, name: str, channels: int, affine: bool = True) -> None:
        """A batch normalisation; PyTorch's with its counter."""
        ends = ("weight", "bias", "running_mean", "running_var") if self.torch else ()
        ends = ends or ("gamma", "beta", "moving_mean", "moving_var")
        values = (self.rng.uniform(0.5, 1.5, channels), *self.rng.normal(0, 0.2, (2, channels)))
        values = (*values, self.rng.uniform(0.5, 2, channels))
        for end, value in zip(ends, values):
            if affine or end in ends[2:]:
                self.state[f"{name}{'.' if self.torch else '_'}{end}"] = value.astype(np.float32)
        if self.torch:
            self.state[f"{name}.num_batches_tracked"] = np.asarray(7, np.int64)

    def vector(self, name: str, channels: int) -> None:
        """Slopes or a bias, under its whole name."""
        self.state[name] = self.rng.uniform(0.1, 0.4, channels).astype(np.float32)


def iresnet_state(blocks: tuple[int, ...] = (1, 2, 1, 1), base: int = 16, side: int = 2, dims: int = 8) -> State:
    """arcface_torch's IResNet."""
    make = Maker()
    make.kernel("conv1", base, 3, 3, 3)
    make.norm("bn1", base)
    make.vector("prelu.weight", base)
    before = base
    for stage, count in enumerate(blocks):
        channels = base << stage
        for index in range(count):
            unit = f"layer{stage + 1}.{index}."
            make.norm(f"{unit}bn1", before)
            make.kernel(f"{unit}conv1", channels, before, 3, 3)
            make.norm(f"{unit}bn2", channels)
            make.vector(f"{unit}prelu.weight", channels)
            make.kernel(f"{unit}conv2", channels, channels, 3, 3)
            make.norm(f"{unit}bn3", channels)
            if index == 0:
                make.kernel(f"{unit}downsample.0", channels, before, 1, 1)
                make.norm(f"{unit}downsample.1", channels)
            before = channels
    make.norm("bn2", before)
    make.kernel("fc", dims, before * side * side)
    make.vector("fc.bias", dims)
    make.norm("features", dims)
    return make.state


def adaface_state(blocks: tuple[int, ...] = (2, 1, 1, 2), base: int = 16, side: int = 2, dims: int = 8) -> State:
    """AdaFace's IR: no convolution in the first shortcut, no scale and shift at the end."""
    make = Maker(seed=1)
    make.kernel("input_layer.0", base, 3, 3, 3)
    make.norm("input_layer.1", base)
    make.vector("input_layer.2.weight", base)
    before, number = base, 0
    for stage, count in enumerate(blocks):
        channels = base << stage
        for _ in range(count):
            unit = f"body.{number}."
            if before != channels:
                make.kernel(f"{unit}shortcut_layer.0", channels, before, 1, 1)
                make.norm(f"{unit}shortcut_layer.1", channels)
            make.norm(f"{unit}res_layer.0", before)
            make.kernel(f"{unit}res_layer.1", channels, before, 3, 3)
            make.norm(f"{unit}res_layer.2", channels)
            make.vector(f"{unit}res_layer.3.weight", channels)
            make.kernel(f"{unit}res_layer.4", channels, channels, 3, 3)
            make.norm(f"{unit}res_layer.5", channels)
            before, number = channels, number + 1
    make.norm("output_layer.0", before)
    make.kernel("output_layer.3", dims, before * side * side)
    make.vector("output_layer.3.bias", dims)
    make.norm("output_layer.4", dims, affine=False)
    return make.state


def mobilefacenet_state(blocks: tuple[int, ...] = (1, 1, 2, 1), scale: int = 1, side: int = 2, dims: int = 8) -> State:
    """arcface_torch's MobileFaceNet; 128 channels of the last convolution instead of 512."""
    make = Maker(seed=2)

    def block(name: str, out: int, into: int, size: int = 1, act: bool = True) -> None:
        make.kernel(f"{name}.layers.0", out, into, size, size)
        make.norm(f"{name}.layers.1", out)
        if act:
            make.vector(f"{name}.layers.2.weight", out)

    def bottleneck(name: str, out: int, into: int, inside: int) -> None:
        block(f"{name}.layers.0", inside, into)
        block(f"{name}.layers.1", inside, 1, 3)
        block(f"{name}.layers.2", out, inside, act=False)

    narrow, wide = 64 * scale, 128 * scale
    block("layers.0", narrow, 3, 3)
    if blocks[0] == 1:
        block("layers.1", narrow, narrow // 64, 3)
    else:
        for index in range(blocks[0]):
            bottleneck(f"layers.1.layers.{index}", narrow, narrow, 128)
    rows = ((narrow, narrow, 128), (wide, narrow, 256), (wide, wide, 512))
    for row, (out, into, inside) in enumerate(rows):
        bottleneck(f"layers.{2 * row + 2}", out, into, inside)
        for index in range(blocks[row + 1]):
            bottleneck(f"layers.{2 * row + 3}.layers.{index}", out, out, (128, 256, 256)[row])
    block("conv_sep", 128, wide)
    block("features.layers.0", 128, 1, side, act=False)
    make.kernel("features.layers.2", dims, 128)
    make.norm("features.layers.3", dims)
    return make.state

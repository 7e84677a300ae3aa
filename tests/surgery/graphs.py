"""Generated models: branches, shared layers, models in models, operations, several inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from tensorflow import keras

from facetrain.layers import FastBatchNormalization, FastDepthwiseConv2D, FastPReLU, GroupedConv2D, HardSwish

layers = keras.layers
KINDS = ("conv", "depthwise", "separable", "transposed", "norm", "prelu", "prelu_each", "relu", "up", "residual")
JOINTS = ("shared", "inner", "operation", "branches")


def fill(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives a model random weights under which its values neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        leaf = weight.name.partition(":")[0].rpartition("/")[2]
        value = rng.normal(size=weight.shape)
        if leaf == "moving_variance":
            value = rng.uniform(0.5, 2.0, weight.shape)
        elif leaf == "gamma":
            value = rng.uniform(0.5, 1.5, weight.shape) * rng.choice([-1.0, 1.0], weight.shape)
        elif leaf.endswith("kernel"):
            value /= np.sqrt(np.prod(weight.shape[:-1]))
        if weight.dtype.is_floating:
            weight.assign(value.astype(weight.dtype.as_numpy_dtype))
    return model


class Maker:
    """Adds layers that hypothesis draws to tensors, each with a name of its own."""

    def __init__(self, draw: Any):
        self._draw, self._count = draw, 0

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def choose(self, *values: Any) -> Any:
        return self._draw(st.sampled_from(values))

    def step(self, x: Any) -> Any:
        """Adds a layer, or several."""
        return getattr(self, self.choose(*KINDS, *JOINTS))(x)

    def conv(self, x: Any, filters: int = 0) -> Any:
        filters = filters or self.choose(2, 3)
        stride, bias = self.choose(1, 2), self.choose(True, False)
        return layers.Conv2D(filters, 3, stride, padding="same", use_bias=bias, name=self.name("conv"))(x)

    def depthwise(self, x: Any) -> Any:
        multiplier, bias = self.choose(1, 2), self.choose(True, False)
        name = self.name("depthwise")
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier, use_bias=bias, name=name)(x)

    def separable(self, x: Any) -> Any:
        return layers.SeparableConv2D(3, 2, padding="same", use_bias=self.choose(True, False), name=self.name("sep"))(x)

    def transposed(self, x: Any) -> Any:
        return layers.Conv2DTranspose(2, 2, padding="same", name=self.name("transposed"))(x)

    def norm(self, x: Any) -> Any:
        scale, center = self.choose(True, False), self.choose(True, False)
        return layers.BatchNormalization(scale=scale, center=center, name=self.name("norm"))(x)

    def relu(self, x: Any) -> Any:
        return layers.ReLU(name=self.name("relu"))(x)

    def prelu(self, x: Any) -> Any:
        return layers.PReLU(shared_axes=[1, 2], name=self.name("prelu"))(x)

    def prelu_each(self, x: Any) -> Any:
        return layers.PReLU(shared_axes=self.choose(None, [1], [1, 2, 3]), name=self.name("prelu"))(x)

    def up(self, x: Any) -> Any:
        if max(x.shape[1:3]) > 8:
            return x
        size, method = self.choose((2, 2), (1, 3), (2, 1)), self.choose("nearest", "bilinear")
        return layers.UpSampling2D(size, interpolation=method, name=self.name("up"))(x)

    def residual(self, x: Any) -> Any:
        y = layers.Conv2D(x.shape[-1], 3, padding="same", name=self.name("conv"))(x)
        return layers.Add(name=self.name("add"))([self.norm(y), self.choose(self.norm, lambda same: same)(x)])

    def grouped(self, x: Any) -> Any:
        y = self.conv(x, 4)
        return GroupedConv2D(4, 3, groups=self.choose(2, 4), padding="same", name=self.name("grouped"))(y)

    def ours(self, x: Any) -> Any:
        """Layers of this package that have a twin in Keras."""
        x = FastBatchNormalization(name=self.name("norm"))(
            FastDepthwiseConv2D(3, padding="same", name=self.name("dw"))(x)
        )
        return HardSwish(name=self.name("swish"))(FastPReLU(shared_axes=[1, 2], name=self.name("prelu"))(x))

    def whole(self, x: Any) -> Any:
        """A depthwise convolution over the whole map."""
        return layers.DepthwiseConv2D(tuple(x.shape[1:3]), use_bias=self.choose(True, False), name=self.name("whole"))(
            x
        )

    def shared(self, x: Any) -> Any:
        """One layer called twice, one of its calls followed by a normalisation."""
        conv = layers.Conv2D(x.shape[-1], 1, name=self.name("shared"))
        prelu = layers.PReLU(shared_axes=[1, 2], name=self.name("prelu"))
        return prelu(self.norm(conv(prelu(conv(x)))))

    def inner(self, x: Any) -> Any:
        """A sequential or functional model, called twice if shapes allow."""
        shape = tuple(x.shape[1:])
        body = [
            layers.Conv2D(shape[-1], 3, padding="same", name=self.name("conv")),
            layers.BatchNormalization(name=self.name("norm")),
            layers.PReLU(shared_axes=[1, 2], name=self.name("prelu")),
        ]
        if self.choose(True, False):
            model = keras.Sequential([keras.Input(shape), *body], name=self.name("sequential"))
        else:
            inputs = y = keras.Input(shape)
            for layer in body:
                y = layer(y)
            model = keras.Model(inputs, y, name=self.name("model"))
        return model(model(x)) if self.choose(True, False) else model(x)

    def operation(self, x: Any) -> Any:
        return x * 0.5 + 1.0

    def branches(self, x: Any) -> Any:
        """A convolution whose output is normalised, and used without that as well."""
        y = layers.Conv2D(2, 1, name=self.name("conv"))(x)
        return layers.Concatenate(name=self.name("concat"))([y, self.norm(y)])


def draw_model(draw: Any, steps: int = 5, kind: str = "conv", most_inputs: int = 2) -> keras.Model:
    """Draws a model of one or two images with one or two outputs, and its weights; not inside a strategy, for Keras
    draws seeds. One of its layers is of a kind that is asked for, one a dropout."""
    make = Maker(draw)
    shape = (draw(st.integers(3, 7)), draw(st.integers(3, 6)), draw(st.integers(1, 3)))
    inputs = [keras.Input(shape, name=make.name("input")) for _ in range(draw(st.integers(1, most_inputs)))]
    x = inputs[0] if len(inputs) == 1 else layers.Concatenate(name=make.name("concat"))(inputs)
    for _ in range(draw(st.integers(1, steps))):
        x = make.step(x)
    x = getattr(make, kind)(x)
    outputs = []
    if draw(st.booleans()):
        outputs.append(make.norm(make.conv(x)))
    y = layers.Dropout(0.2, name="drop")(layers.Flatten(name="flatten")(make.norm(x)))
    y = layers.Dense(5, name="dense1")(y)
    y = layers.PReLU(name="slope")(layers.Dense(3, name="dense2")(y)) if draw(st.booleans()) else y
    outputs.append(layers.BatchNormalization(name="last")(layers.Dense(4, use_bias=False, name="dense3")(y)))
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0])
    return fill(model, draw(st.integers(0, 9)))

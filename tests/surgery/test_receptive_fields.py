"""Receptive fields against where the gradient of an output is not zero."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.surgery.receptive_fields import FieldFinder

layers = keras.layers


def positive(model):
    """Gives a model weights under which no gradient vanishes."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.0, weight.shape))
    return model


def support(model, position):
    """First and last row and column of the input that the output at a position depends on."""
    image = tf.Variable(tf.random.stateless_uniform((1, *model.input_shape[1:]), (1, 2), 0.5, 1.0))
    with tf.GradientTape() as tape:
        # Smooth maxima would do, but every pixel of a pooling window must have a share: its mean has the same window.
        value = tf.reduce_sum(model(image)[0, position[0], position[1]])
    touched = np.abs(tape.gradient(value, image)[0]).sum(axis=2) > 0
    return [(int(span.min()), int(span.max())) for span in np.nonzero(touched)]


def check(build, shape=(31, 27, 2)):
    inputs = keras.Input(shape)
    model = positive(keras.Model(inputs, build(inputs)))
    field = surgery.receptive_field(model)
    sides = model.output_shape[1:3]
    middle = tuple(side // 2 for side in sides)
    spans = support(model, middle)
    for axis, (low, high) in enumerate(spans):
        assert 0 < low and high < shape[axis] - 1, "the input is too small to judge by"
        assert field.size[axis] == high - low + 1
    first = support(model, (0, 0))
    assert [max(start, 0) for start in field.start] == [low for low, _ in first]
    assert not field.whole
    return model, field


def conv(kernel, *args, **kwargs):
    return layers.Conv2D(2, kernel, *args, **kwargs)


CHAINS = {
    "conv": [conv(3, padding="same"), conv((1, 5), padding="valid")],
    "strides": [conv(3, 2, padding="same"), conv(3, (1, 2), padding="same"), conv(3)],
    "dilated": [conv(3, dilation_rate=2, padding="same"), conv((3, 1), dilation_rate=(3, 1))],
    "depthwise": [layers.DepthwiseConv2D(5, 2, padding="same"), layers.SeparableConv2D(2, 3)],
    "pooling": [layers.AveragePooling2D(3, 2, "same"), layers.AveragePooling2D(2), conv(2, padding="same")],
    "padding": [layers.ZeroPadding2D(((2, 1), (0, 3))), conv(3, 2), layers.Cropping2D(((1, 0), (1, 1)))],
    "transposed": [conv(3, 2, padding="same"), layers.Conv2DTranspose(2, 4, 2, padding="same"), conv(3)],
    "transposed_valid": [conv(3, 3), layers.Conv2DTranspose(2, 5, 3, padding="valid")],
    "nearest": [conv(3, 2, padding="same"), layers.UpSampling2D((2, 3)), conv(3)],
    "bilinear": [conv(3, 2, padding="same"), layers.UpSampling2D((2, 3), interpolation="bilinear"), conv(2)],
    "pointwise": [
        conv(3),
        layers.BatchNormalization(),
        layers.PReLU(shared_axes=[1, 2]),
        layers.Dense(3),
        layers.Dropout(0.5),
    ],
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name):
    def build(x):
        for layer in CHAINS[name]:
            x = layer.__class__.from_config(layer.get_config())(x)
        return x

    check(build)


def test_sums_and_joins_see_what_their_branches_see():
    def build(x):
        y = layers.Add()([conv(3, padding="same")(x), conv((1, 7), padding="same")(x)])
        y = layers.Concatenate()([conv((5, 1), padding="same")(y), y])
        return layers.Multiply()([conv(1)(y), conv(1)(conv(3, padding="same")(x))])

    _, field = check(build)
    assert field.size == (7, 7)


def test_models_inside_and_strides():
    def build(x):
        inside = keras.Input((16, 14, 2))
        inner = keras.Model(inside, layers.Add()([conv(3, padding="same")(inside), inside]))
        return layers.UpSampling2D(4)(inner(conv(3, 2, padding="same")(x)))

    model, field = check(build)
    assert field.stride == (0.5, 0.5)
    finder = FieldFinder(model)
    assert finder.at(model.layers[1].name).stride == (2.0, 2.0)


def test_joined_rows():
    inputs = keras.Input((8, 5, 1))
    blurred = layers.Conv2D(1, 3, padding="same")(inputs)
    model = positive(keras.Model(inputs, layers.Concatenate(axis=1)([inputs, blurred])))
    assert surgery.receptive_field(model).size[1] == 3


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.GlobalAveragePooling2D()(x),
        lambda x: layers.Dense(3)(layers.Flatten()(x)),
        lambda x: layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]),
        lambda x: layers.Lambda(lambda t: t[:, ::-1])(x),
    ],
)
def test_what_looks_at_everything_or_is_unknown(build):
    inputs = keras.Input((6, 4, 2))
    field = surgery.receptive_field(keras.Model(inputs, build(inputs)))
    assert field.whole and field.size == (6, 4) and field.start == (0, 0)


def test_what_has_no_receptive_field():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(InputError, match="needs a model of one image of fixed size"):
        surgery.receptive_field(model)
    image = keras.Input((4, 4, 1))
    with pytest.raises(InputError, match="has no layer 'cnov'; did you mean 'conv'"):
        surgery.receptive_field(keras.Model(image, layers.Conv2D(1, 1, name="conv")(image)), "cnov")

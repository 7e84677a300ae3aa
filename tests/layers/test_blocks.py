"""LayerFactory: names, shapes, paddings, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.blocks import LayerFactory


def _build(make, size=8, **arguments):
    inputs = keras.Input((size, size, 3))
    return keras.Model(inputs, make.conv_norm_act(inputs, 4, 3, "block", **arguments))


def test_names_and_conventions():
    model = _build(LayerFactory(bn_momentum=0.7, bn_epsilon=3e-5))
    assert [layer.name for layer in model.layers][1:] == ["block_conv", "block_bn", "block_act"]
    norm = model.get_layer("block_bn")
    assert (norm.momentum, norm.epsilon) == (0.7, 3e-5)
    assert model.get_layer("block_act").alpha.shape == (1, 1, 4)
    np.testing.assert_array_equal(model.get_layer("block_act").alpha, 0.25)
    assert not model.get_layer("block_conv").use_bias


@pytest.mark.parametrize("size", [7, 8])
def test_paddings_differ_at_the_edges_only(size):
    sums = {}
    for padding in ("same", "symmetric"):
        inputs = keras.Input((size, size, 1))
        make = LayerFactory(kernel_initializer="ones", padding=padding)
        outputs = make.conv(inputs, 1, 3, "conv", strides=2)
        sums[padding] = keras.Model(inputs, outputs)(tf.ones([1, size, size, 1])).numpy()[0, :, :, 0]
        half = -(-size // 2)
        assert sums[padding].shape == (half, half)
    # With ones everywhere a sum counts the positions inside the image: symmetric padding loses some at the near edge.
    assert sums["symmetric"][0, 0] == 4
    assert sums["same"][0, 0] == (9 if size % 2 == 0 else 4)
    assert sums["same"][1, 1] == sums["symmetric"][1, 1] == 9


def test_symmetric_padding_names_its_layer_and_leaves_stride_one_alone():
    make = LayerFactory(padding="symmetric")
    assert [layer.name for layer in _build(make, strides=2).layers][1] == "block_conv_pad"
    assert len(_build(make).layers) == 4


def test_depthwise_is_a_keras_depthwise():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, LayerFactory().depthwise_norm_act(inputs, 3, "dw", strides=2))
    assert isinstance(model.get_layer("dw_conv"), keras.layers.DepthwiseConv2D)
    assert model.output_shape == (None, 4, 4, 3)


@pytest.mark.parametrize("activation", ["prelu", "leaky_relu", "relu", "swish", "hswish", "gelu", "aconc", "linear"])
def test_activations(activation):
    assert np.isfinite(_build(LayerFactory(activation=activation))(tf.ones([1, 8, 8, 3]))).all()


def test_squeeze_excite_by_hand():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, LayerFactory("swish").squeeze_excite(inputs, 2, "se", "relu", gate="hsigmoid"))
    names = ["se_pool", "se_reduce", "se_act", "se_expand", "se_gate", "se"]
    assert [layer.name for layer in model.layers][1:] == names
    rng = np.random.default_rng(0)
    reduce, reduce_bias, expand, expand_bias = (rng.normal(size=w.shape) for w in model.get_weights())
    model.set_weights([reduce, reduce_bias, expand, expand_bias])
    x = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    middle = np.maximum(x.mean((1, 2)) @ reduce[0, 0] + reduce_bias, 0)
    gate = np.clip(middle @ expand[0, 0] + expand_bias + 3, 0, 6) / 6
    np.testing.assert_allclose(model(x), x * gate[:, None, None], atol=1e-5)


def test_dropout_and_drop_path_have_streams_of_their_own():
    inputs = keras.Input((4, 4, 3))
    make = LayerFactory(seed=7)
    x = make.add(inputs, inputs, "a_add", drop_path=0.5)
    x = make.add(make.dropout(x, 0.5, "drop"), inputs, "b_add", drop_path=0.5)
    model = keras.Model(inputs, make.add(make.dropout(x, 0.0, "none"), inputs, "c_add"))
    assert [layer.name for layer in model.layers][1:] == ["a_add_path", "a_add", "drop", "b_add_path", "b_add", "c_add"]
    seeds = {model.get_layer(name).seed for name in ("a_add_path", "b_add_path", "drop")}
    assert len(seeds) == 3
    assert LayerFactory(seed=8)._seed("drop") == model.get_layer("drop").seed + 1


def test_groups_and_oblong_kernels():
    inputs = keras.Input((9, 8, 4))
    make = LayerFactory(padding="symmetric")
    grouped = keras.Model(inputs, make.conv_norm(inputs, 8, 3, "g", groups=2))
    assert grouped.get_layer("g_conv").kernel.shape == (3, 3, 2, 8)
    oblong = keras.Model(inputs, make.conv(inputs, 5, (1, 7), "o", strides=2))
    assert oblong.output_shape == (None, 5, 4, 5) and oblong.get_layer("o_pad").padding == ((0, 0), (3, 3))


def test_own_initializer_differs_from_layer_to_layer():
    make = LayerFactory(kernel_initializer=keras.initializers.HeNormal())
    inputs = keras.Input((8, 8, 3))
    x = make.conv(make.conv(inputs, 3, 3, "a"), 3, 3, "b")
    model = keras.Model(inputs, x)
    assert not np.array_equal(model.get_layer("a").kernel, model.get_layer("b").kernel)


def test_a_convolution_may_have_its_own_padding_and_bias():
    inputs = keras.Input((9, 9, 2))
    make = LayerFactory(kernel_initializer="ones", padding="symmetric")
    model = keras.Model(inputs, make.conv(inputs, 1, 3, "conv", strides=2, use_bias=True, padding="valid"))
    model.get_layer("conv").bias.assign([0.5])
    np.testing.assert_array_equal(model(tf.ones([1, 9, 9, 2])), np.full((1, 4, 4, 1), 18.5))
    model = keras.Model(inputs, make.depthwise(inputs, 3, "depthwise", use_bias=True))
    model.get_layer("depthwise").bias.assign([0.5, -0.5])
    np.testing.assert_array_equal(model(tf.ones([1, 9, 9, 2]))[0, 4, 4], [9.5, 8.5])


@pytest.mark.parametrize("padding,first", [("same", 2.0), ("symmetric", 1.0)])
def test_max_pool(padding, first):
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, LayerFactory(padding=padding).max_pool(inputs, 3, "pool", strides=2))
    rows = tf.reshape(tf.range(4.0), [1, 4, 1, 1]) + tf.zeros([1, 4, 4, 1])
    np.testing.assert_array_equal(model(rows)[0, :, 0, 0], [first, 3.0])
    negative = model(rows - 5.0)[0, 0, 0, 0]
    assert negative == (first - 5.0 if padding == "same" else 0.0)  # zeros from the edge


def test_dtype_reaches_every_layer():
    model = _build(LayerFactory(dtype="mixed_bfloat16", padding="symmetric"), strides=2)
    assert {layer.compute_dtype for layer in model.layers[1:]} == {"bfloat16"}


@pytest.mark.parametrize(
    "bad", [{"padding": "full"}, {"activation": "nope"}, {"bn_momentum": 1.0}, {"bn_epsilon": 0.0}]
)
def test_refusals(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        LayerFactory(**bad)

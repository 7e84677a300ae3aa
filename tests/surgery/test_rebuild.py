"""The engine: what is copied, kept and refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import surgery
from facetrain.errors import InputError
from facetrain.surgery.graph import all_layers
from facetrain.surgery.proof import prove
from facetrain.surgery.rebuild import Rebuild
from tests.surgery.graphs import fill

layers = keras.layers


def copied(model):
    rebuilt = Rebuild(model).run()
    prove(rebuilt, "copy")
    return rebuilt.model


@keras.saving.register_keras_serializable("tests")
class Scale(layers.Layer):
    """A layer from elsewhere with a weight and an argument."""

    def __init__(self, power=1, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def build(self, shape):
        self.factor = self.add_weight("factor", (shape[-1],), initializer="ones")

    def call(self, x, training=None):
        return x * self.factor**self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power}


class Named(keras.Model):
    """A model built from inputs and outputs, with a method of its own."""

    def twice(self, x):
        return 2 * self(x)


def everything():
    """Two inputs by name, a shared layer, a shared model with a model inside, operations, a Lambda, own layers."""
    first, second = keras.Input((6, 5, 2), name="first"), keras.Input((6, 5, 2), name="second")
    core = keras.Sequential([layers.Conv2D(3, 3, name="c", input_shape=(6, 5, 2)), layers.ReLU(name="r")], name="core")
    inside = keras.Input((6, 5, 2))
    inner = keras.Model(inside, Scale(2, name="scale")(core(inside)), name="inner")
    shared = layers.Dense(4, name="shared")
    a, b = shared(inner(first)), shared(inner(second))
    offset = 1.5
    mean = layers.Lambda(lambda t: np.float32(offset) + tf.reduce_mean(t, [1, 2]), name="mean")(b)
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    summed = tf.nn.relu(2.0 * a + b[:, :, :, :1])
    outputs = {"map": frozen(summed), "vector": [mean, layers.Dense(2, dtype="float64", name="wide")(mean)]}
    return fill(keras.Model({"first": first, "second": second}, outputs, name="everything"))


def test_a_copy_has_everything_and_shares_what_was_shared():
    model = everything()
    model.get_layer("inner").trainable = False
    model.get_layer("inner").get_layer("scale").trainable = True
    new = copied(model)
    assert new.get_config().keys() == model.get_config().keys()
    assert [path for path, _ in all_layers(new)] == [path for path, _ in all_layers(model)]
    assert [(w.name, w.numpy().tobytes()) for w in new.weights] == [
        (w.name, w.numpy().tobytes()) for w in model.weights
    ]
    assert [w.name for w in new.trainable_weights] == [w.name for w in model.trainable_weights]
    frozen = ([path for path, layer in all_layers(m) if layer.weights and not layer.trainable] for m in (new, model))
    assert next(frozen) == next(frozen)
    assert len(new.get_layer("shared")._inbound_nodes) == 2 and len(new.get_layer("inner")._inbound_nodes) == 2
    assert new.input.keys() == {"first", "second"} and isinstance(new.output["vector"], list)
    assert new.get_layer("wide").compute_dtype == "float64"


def test_values_of_a_copy():
    model = everything()
    new = copied(model)
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(2, 6, 5, 2)).astype("float32") for name in ("first", "second")}
    for old, received in zip(tf.nest.flatten(model(inputs)), tf.nest.flatten(new(inputs))):
        np.testing.assert_array_equal(old, received)


def test_mixed_precision_and_class_stay():
    inputs = keras.Input((4,))
    x = layers.Dense(3, dtype="mixed_bfloat16", name="half")(inputs)
    model = Named(inputs, layers.Dense(2, dtype="float32", name="full")(x), name="named")
    new = copied(model)
    assert type(new) is Named and new.get_config() == model.get_config()
    assert new.get_layer("half").dtype_policy.name == "mixed_bfloat16"
    assert new.twice(np.ones((1, 4))).shape == (1, 2)


def test_a_call_in_training_mode_stays_one():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.BatchNormalization(name="norm")(inputs, training=True))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(copied(model)(x, training=False), (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), atol=1e-5)


def test_synchronised_statistics_are_not_forgotten():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.BatchNormalization(synchronized=True, name="norm")(inputs))
    assert copied(model).get_layer("norm").synchronized


def test_layers_are_replaced_and_weights_of_the_same_name_and_shape_taken_over():
    inputs = keras.Input((4,))
    dense = layers.Dense(4, name="dense")
    model = fill(keras.Model(inputs, layers.ReLU(name="end")(dense(dense(inputs)))))
    new = surgery.replace_layers(
        model, lambda layer: layer.name == "dense", lambda layer: layers.Dense(4, activation="tanh", name="bent")
    )
    x = np.random.default_rng(0).normal(size=(2, 4))
    kernel, bias = model.get_weights()
    assert [w.tobytes() for w in new.get_weights()] == [kernel.tobytes(), bias.tobytes()]
    expected = np.maximum(np.tanh(np.tanh(x @ kernel + bias) @ kernel + bias), 0)
    np.testing.assert_allclose(new(x), expected, atol=1e-6)


def test_a_factory_may_return_a_function_or_keep_the_layer():
    inputs = keras.Input((4,))
    model = fill(keras.Model(inputs, layers.ReLU(name="end")(layers.Dense(4, name="dense")(inputs))))
    double = layers.Add(name="double")
    new = surgery.replace_layers(
        model, lambda layer: True, lambda layer: (lambda x: double([x, x])) if layer.name == "end" else None
    )
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(new(x), 2 * (x @ model.get_weights()[0] + model.get_weights()[1]), rtol=1e-6)
    with pytest.raises(InputError, match="must return a layer, a function or None for layer 'dense', received int"):
        surgery.replace_layers(model, lambda layer: True, lambda layer: 3)


class Bare(layers.Layer):
    """A layer that cannot be copied."""

    def __init__(self, function, name=None):
        super().__init__(name=name)
        self.function = function

    def call(self, x):
        return self.function(x)


def _with(layer):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layer(inputs), name="m")


def _with_loss():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs), name="m")
    model.add_loss(tf.reduce_sum(model.output))
    return model


class Subclassed(keras.Model):
    """A model without a graph."""

    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(3), "surgery takes a Keras model, received Dense"),
        (lambda: Subclassed(name="own"), "model 'own' .Subclassed. is no functional model"),
        (lambda: keras.Sequential([layers.Dense(2)], name="s"), "call it on an input first"),
        (lambda: _with(Bare(tf.abs, name="bare")), "layer 'bare' .Bare. cannot be copied: it needs a get_config"),
        (_with_loss, "has losses or metrics that were added to its graph"),
    ],
)
def test_what_has_no_graph_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        copied(make())


def test_an_edit_that_does_not_fit_names_the_layer():
    model = _with(layers.Dense(4, name="dense"))
    with pytest.raises(InputError, match="layer 'dense' cannot take its input: .*ndim"):
        surgery.replace_layers(model, lambda layer: True, lambda layer: layers.Conv2D(4, 1))

from __future__ import annotations

import numpy as np
import pytest
from tensorflow import keras

from facetrain.export import to_float32
from tests.export.helpers import crops, tiny_model


def policies(model):
    return {
        layer.dtype_policy.name if hasattr(layer, "dtype_policy") else layer._dtype_policy.name
        for layer in model._flatten_layers(include_self=False)
    }


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_mixed_model_becomes_what_it_would_have_been_in_float32(precision):
    mixed, plain = tiny_model(precision), tiny_model("float32")
    before = [w.copy() for w in mixed.get_weights()]
    twin = to_float32(mixed)
    assert policies(mixed) == {precision, "float32"} and policies(twin) == {"float32"}
    images = crops().astype(np.float32) / 255
    np.testing.assert_allclose(twin(images), plain(images), atol=1e-6)
    assert not np.allclose(mixed(images), plain(images), atol=1e-6)
    for old, new, copied in zip(before, mixed.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(old, new)
        np.testing.assert_array_equal(old, copied)
    assert twin.get_layer("inner") is not mixed.get_layer("inner")
    assert keras.mixed_precision.global_policy().name == "float32"


def test_a_float32_model_is_returned_as_it_is():
    model = tiny_model()
    assert to_float32(model) is model


def test_configuration_is_equal_but_for_precision():
    assert to_float32(tiny_model("mixed_bfloat16")).count_params() == tiny_model().count_params()
    mixed = tiny_model("mixed_bfloat16")
    names = [(type(layer).__name__, layer.name) for layer in mixed.layers]
    assert [(type(layer).__name__, layer.name) for layer in to_float32(mixed).layers] == names


def test_a_sequential_model_and_a_policy_object():
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(3, dtype=keras.mixed_precision.Policy("mixed_bfloat16"))]
    )
    twin = to_float32(model)
    assert isinstance(twin, keras.Sequential) and twin(np.ones((1, 4), np.float32)).dtype == "float32"


def test_a_model_that_forgets_its_configuration_is_found_out():
    class Forgetful(keras.Model):
        def __init__(self, units=2, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(units, dtype="mixed_bfloat16")

        def call(self, inputs):
            return self.dense(inputs)

        def get_config(self):
            return {"name": self.name, "dtype": "mixed_bfloat16"}

        @classmethod
        def from_config(cls, config):
            model = cls(units=3, name=config["name"])
            model.build((None, 4))
            return model

    model = Forgetful(name="forgetful")
    model.build((None, 4))
    with pytest.raises(ValueError, match="forgetful"):
        to_float32(model)

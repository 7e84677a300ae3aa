"""DropPath: whole branches fall, survivors are scaled, and a saved model goes on with the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.drop_path import DropPath, path_rates


def test_images_fall_as_a_whole():
    outputs = DropPath(0.25, seed=1)(tf.ones([4000, 2, 3, 2]), training=True).numpy().reshape(4000, -1)
    assert (outputs == outputs[:, :1]).all()
    np.testing.assert_allclose(np.unique(outputs), [0.0, 4 / 3], rtol=1e-6)
    # 4000 draws: within five standard deviations, 5 * sqrt(0.25 * 0.75 / 4000) = 0.034.
    assert abs((outputs[:, 0] == 0).mean() - 0.25) < 0.034


def test_identity_at_inference_and_zero_rate():
    x = tf.random.normal([4, 2, 2, 3])
    np.testing.assert_array_equal(DropPath(0.5)(x), x)
    np.testing.assert_array_equal(DropPath(0.0)(x, training=True), x)


def test_draws_depend_on_seed_and_call_only():
    x = tf.ones([64, 2, 2, 1])
    first, again, other = (DropPath(0.5, seed=s, dtype=d) for s, d in ((3, None), (3, "mixed_bfloat16"), (4, None)))
    masks = [[layer(x, training=True).numpy()[:, 0, 0, 0] > 0 for _ in range(2)] for layer in (first, again, other)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0][0], masks[0][1]) and not np.array_equal(masks[0][0], masks[2][0])


def test_saved_models_go_on(tmp_path):
    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, DropPath(0.5, seed=2, name="path")(inputs))
    x = np.ones((16, 2, 2, 1), np.float32)
    model(x, training=True)
    model.save(tmp_path / "m.keras")
    copy = keras.models.load_model(tmp_path / "m.keras")
    assert copy.get_layer("path").get_config() == model.get_layer("path").get_config()
    np.testing.assert_array_equal(copy(x, training=True), model(x, training=True))


def test_rates_grow_linearly():
    assert path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert path_rates(0.3, 1) == [0.0]
    with pytest.raises(InputError, match=r"drop_path must be in \[0, 1\), received 1.0"):
        path_rates(1.0, 3)
    with pytest.raises(InputError, match="rate of DropPath"):
        DropPath(-0.1)

"""Weighted sums of losses."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import losses
from facetrain.errors import InputError

SPECS = [{"name": "curricularface", "scale": 20.0}, {"name": "center", "weight": 0.5}, "supcon"]


def _outputs(seed=0):
    rng = np.random.default_rng(seed)
    outputs = {"logits": np.tanh(rng.normal(size=(6, 5))), "embedding": rng.normal(size=(6, 4))}
    return rng.integers(0, 5, 6), {name: tf.constant(value, tf.float32) for name, value in outputs.items()}


def test_equals_the_sum_of_its_losses_step_by_step():
    total = losses.get(SPECS)
    total.build(5, 4)
    apart = [losses.get(s) for s in ({"name": "curricularface", "scale": 20.0}, "center", "supcon")]
    apart[1].build(5, 4)
    for seed in range(3):
        labels, outputs = _outputs(seed)
        expected = sum(w * loss(labels, outputs).numpy() for w, loss in zip((1.0, 0.5, 1.0), apart))
        np.testing.assert_allclose(total(labels, outputs), expected, rtol=1e-6)
    own = [v for loss in apart for v in loss.variables]
    assert [v.name for v in total.variables] == [v.name for v in own]
    for ours, theirs in zip(total.variables, own):
        np.testing.assert_array_equal(ours, theirs)


def test_goes_round_through_keras_configuration():
    total = losses.get(SPECS)
    total.build(5, 4)
    copy = keras.losses.deserialize(keras.losses.serialize(total))
    assert copy.get_config() == total.get_config() and copy.scale == 20.0
    labels, outputs = _outputs()
    np.testing.assert_array_equal(copy(labels, outputs), total(labels, outputs))


def test_scale_is_that_of_the_first_that_has_one():
    total = losses.get(["supcon", {"name": "arcface", "scale": 30.0}, {"name": "cosface", "scale": 8.0}])
    assert total.scale == 30.0
    total.scale = 16.0
    assert [loss.scale for loss in total.losses[1:]] == [16.0, 8.0]
    assert losses.get({"name": "sum", "losses": ["arcface"], "scale": 5.0}).losses[0].scale == 5.0
    assert not hasattr(losses.get(["supcon", "triplet"]), "scale")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ([], "at least one loss"),
        ({"name": "sum", "losses": "arcface"}, "a list"),
        ([{"name": "arcface", "weight": 0.0}], "weight must be"),
        ([{"name": "arcface", "weight": "much"}], "weight must be"),
        ({"name": "sum", "losses": ["arcface"], "weights": [1.0, 2.0]}, "as many weights"),
        (["arcfce"], "did you mean 'arcface'"),
        ([keras.losses.MeanSquaredError()], "losses of facetrain"),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value),
)
def test_refusals_say_what_is_wrong(spec, says):
    with pytest.raises(InputError, match=says):
        losses.get(spec)

"""The state that float16 adds to a run: the dynamic loss scale, kept and restored to the last bit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from tensorflow import keras

from facetrain import heads, losses, optimizers
from facetrain.errors import InputError
from facetrain.models import FaceRecognizer
from facetrain.models.precision import LOSS_SCALING_VARIABLES, loss_scaling_variables, precision_scope
from facetrain.models.weights import read_state, stream_state, write_state
from facetrain.training.checkpoints import CheckpointStore
from tests.models.test_recognizer import fit_once
from tests.tiny import CLASSES, SIZE, tiny_batch, tiny_recognizer

SCALE, GOOD_STEPS = (f"optimizer/{name}" for name in LOSS_SCALING_VARIABLES)


def small_optimizer(initial_scale=2.0**40, growth=3):
    inner = optimizers.get("mxnet_sgd", learning_rate=0.01)
    return keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=initial_scale, dynamic_growth_steps=growth)


def half_recognizer(optimizer=None):
    """A scale of 2^40 overflows, so that it falls step by step; then it would rise after each three good updates."""
    keras.utils.set_random_seed(5)
    with precision_scope("mixed_float16"):
        inputs = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Dense(8, name="embedding")(keras.layers.GlobalAveragePooling2D()(inputs))
    recognizer = FaceRecognizer(keras.Model(inputs, x), heads.get("cosine", num_classes=CLASSES))
    recognizer.compile(optimizer or small_optimizer(), losses.get("arcface"))
    return recognizer


def scaling(recognizer):
    state = read_state(recognizer)
    return float(state[SCALE]), int(state[GOOD_STEPS])


def test_a_checkpoint_brings_the_scale_back(tmp_path):
    """Resumed after k updates, for each k until the scale has fallen and risen again."""
    whole, seen = half_recognizer(), []
    for step in range(40):
        fit_once(whole, tiny_batch(seed=step))
        seen.append(scaling(whole))
        if step in (3, 30, 31, 32):
            CheckpointStore(tmp_path / str(step)).save(step, stream_state(whole), {})
    scales = [scale for scale, _ in seen]
    assert scales[3] < 2.0**40 and max(np.diff(scales)) > 0, "the scale must have fallen, and risen"
    assert {good for _, good in seen} >= {0, 1, 2}
    for step in (3, 30, 31, 32):
        resumed = half_recognizer()
        write_state(resumed, CheckpointStore(tmp_path / str(step)).latest().arrays, "a test")
        assert scaling(resumed) == seen[step]
        for later in range(step + 1, 40):
            fit_once(resumed, tiny_batch(seed=later))
            assert scaling(resumed) == seen[later]
        for name, value in read_state(whole).items():
            np.testing.assert_array_equal(read_state(resumed)[name], value, err_msg=name)


def test_an_older_checkpoint_without_it_begins_anew(caplog):
    first, second = half_recognizer(), half_recognizer()
    fit_once(first, tiny_batch(), steps=30)
    older = {name: value for name, value in read_state(first).items() if name not in (SCALE, GOOD_STEPS)}
    with caplog.at_level(logging.WARNING):
        write_state(second, older, "an older checkpoint")
    assert scaling(second) == (2.0**40, 0)
    assert "an older checkpoint: holds no state of the loss scaling" in caplog.text
    for name, value in older.items():
        np.testing.assert_array_equal(read_state(second)[name], value, err_msg=name)


def test_half_of_it_is_refused():
    recognizer = half_recognizer()
    torn = {name: value for name, value in read_state(recognizer).items() if name != GOOD_STEPS}
    with pytest.raises(InputError, match=f"{GOOD_STEPS} is missing"):
        write_state(recognizer, torn, "a checkpoint")


def test_a_new_head_keeps_it():
    recognizer = half_recognizer()
    fit_once(recognizer, tiny_batch(), steps=30)
    before = scaling(recognizer)
    assert before != (2.0**40, 0)
    recognizer.change_head(heads.get("subcenter", num_classes=CLASSES, k=2), small_optimizer())
    assert scaling(recognizer) == before
    fit_once(recognizer, tiny_batch())
    assert np.isfinite(recognizer.head.centres).all()


def test_there_is_none_elsewhere():
    assert loss_scaling_variables(tiny_recognizer().optimizer) == []
    fixed = keras.mixed_precision.LossScaleOptimizer(optimizers.get("mxnet_sgd"), dynamic=False, initial_scale=8.0)
    assert loss_scaling_variables(fixed) == []
    assert not {SCALE, GOOD_STEPS} & read_state(tiny_recognizer()).keys()

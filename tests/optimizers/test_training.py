"""Every optimiser of the table in the recogniser's train step, with all that may be combined with it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from facetrain import heads, losses, optimizers
from facetrain.models import FaceRecognizer
from facetrain.models.precision import precision_scope
from facetrain.models.weights import named_variables, read_state, write_state
from tests.tiny import CLASSES, SIZE, tiny_batch, tiny_embedding_model

ALL = [entry.name for entry in optimizers.OPTIMIZERS]
RATES = {"mxnet_lars": 1.0, "mxnet_adam": 0.01, "adamw": 0.01, "lamb": 0.01, "mxnet_lamb": 0.01}
EXTRAS = {"global_clipnorm": 1.0, "centralize": True, "lookahead": {"sync_period": 2}}


def recognizer_of(name, precision="float32", seed=0, extras=EXTRAS, **compile_arguments):
    with precision_scope(precision):
        model = tiny_embedding_model(batch_norm=False, seed=seed)
    recognizer = FaceRecognizer(model, heads.get("cosine", num_classes=CLASSES))
    schedule = {"name": "warmup_cosine", "peak_lr": RATES.get(name, 0.1), "total_steps": 30, "warmup_steps": 2}
    optimizer = optimizers.get({"name": name, "weight_decay": 5e-4, **extras}, learning_rate=schedule)
    recognizer.compile(optimizer, losses.get("cosface", scale=16.0), **compile_arguments)
    return recognizer


def fit(recognizer, steps, seed=0):
    batches = tf.data.Dataset.from_tensors(tiny_batch(8, seed=seed)).repeat(steps)
    return recognizer.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0).history["loss"][0]


def assert_close(first, second, rtol, atol):
    one, two = read_state(first), read_state(second)
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=rtol, atol=atol * max(1.0, np.abs(value).max()), err_msg=key)


@pytest.mark.parametrize("name", ALL)
def test_a_run_that_is_put_down_and_taken_up_again_is_the_same_run(name):
    whole, first, second = (recognizer_of(name, seed=seed) for seed in (0, 0, 9))
    fit(whole, 5)
    fit(first, 3)
    write_state(second, read_state(first), "a test")
    fit(second, 2)
    one, two = read_state(whole), read_state(second)
    assert one.keys() == two.keys() and one["optimizer/iteration"] == 5
    for key, value in one.items():
        np.testing.assert_array_equal(two[key], value, err_msg=key)


@pytest.mark.parametrize("name", ALL)
def test_accumulation_makes_the_update_of_the_whole_batch(name):
    whole, parts = recognizer_of(name), recognizer_of(name, accumulate_steps=4)
    fit(whole, 3)
    fit(parts, 3)
    assert_close(whole, parts, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_compiled_by_xla_it_makes_the_same_updates(name):
    plain, compiled = recognizer_of(name), recognizer_of(name, jit_compile=True)
    fit(plain, 3)
    fit(compiled, 3)
    assert_close(plain, compiled, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_it_learns_in_mixed_precision_and_keeps_its_state_in_full(name):
    recognizer = recognizer_of(name, "mixed_bfloat16")
    assert recognizer.embedding_model.get_layer("conv").compute_dtype == "bfloat16"
    losses_seen = [fit(recognizer, 10) for _ in range(3)]
    assert losses_seen[-1] < 0.9 * losses_seen[0], losses_seen
    kinds = {v.dtype for v in named_variables(recognizer).values() if v.dtype.is_floating}
    assert kinds <= {tf.float32, tf.float64}


def regularised_embedding_model(l2):
    """Two blocks of convolution, normalisation and PReLU; kernels, gammas and alphas carry ``L2(l2)``."""
    keras.utils.set_random_seed(0)
    l2 = keras.regularizers.L2(l2)
    x = inputs = keras.Input((SIZE, SIZE, 3))
    for width in (6, 8):
        x = keras.layers.Conv2D(width, 3, strides=2, kernel_regularizer=l2)(x)
        x = keras.layers.BatchNormalization(gamma_regularizer=l2)(x)
        x = keras.layers.PReLU(shared_axes=[1, 2], alpha_regularizer=l2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(8, kernel_regularizer=l2)(x))


def test_regularisers_in_the_loss_equal_decay_in_the_optimiser():
    """20 updates, L2(wd / 2) under Keras' SGD against MXNetSGD with wd, biases, betas and centres not decayed."""
    wd, rule = 0.02, {"wd_mult": {"centres$": 0.0}}
    made = {
        "ours": (0.0, optimizers.MXNetSGD(0.1, 0.9, wd, rule)),
        "theirs": (wd / 2, keras.optimizers.SGD(0.1, 0.9)),
        "undecayed": (0.0, keras.optimizers.SGD(0.1, 0.9)),
    }
    weights = {}
    for name, (l2, optimizer) in made.items():
        recognizer = FaceRecognizer(regularised_embedding_model(l2), heads.get("cosine", num_classes=CLASSES))
        recognizer.head.centres.assign(np.random.default_rng(1).normal(size=recognizer.head.centres.shape))
        recognizer.compile(optimizer, losses.get("cosface", scale=8.0))
        batches = [tiny_batch(16, seed=seed) for seed in range(20)]
        data = tf.data.Dataset.from_tensor_slices({key: tf.stack([b[key] for b in batches]) for key in batches[0]})
        recognizer.fit(data, epochs=1, steps_per_epoch=20, verbose=0)
        weights[name] = [v.numpy() for v in recognizer.updated_variables()]
    apart = []
    for ours, theirs, undecayed in zip(*weights.values()):
        size = np.linalg.norm(theirs) + 1e-3
        assert np.linalg.norm(ours - theirs) <= 1e-3 * size
        apart.append(np.linalg.norm(ours - undecayed) / size)
    assert max(apart) > 0.05, "the decay must matter"

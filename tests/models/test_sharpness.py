"""Sharpness-aware minimisation: by hand on a bowl, in NumPy through a network, and what it leaves as it was."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain import losses
from facetrain.models.sharpness import sharpness_aware
from facetrain.models.weights import named_variables, read_state
from facetrain.optimizers import MXNetSGD
from tests.models.test_recognizer import fit_once
from tests.tiny import tiny_batch, tiny_recognizer

RHO = 0.05


def test_on_a_bowl_by_hand():
    """L = (3 x^2 + y^2) / 2 at (1, 2): g = (3, 2), then (3 (1 + 3 r), 2 + 2 r) with r = rho / sqrt(13)."""
    x, y = tf.Variable(1.0), tf.Variable(2.0)
    counter = tf.Variable(0)

    def one_pass():
        counter.assign_add(1)
        return [3.0 * x, y + 0.0], (3.0 * x**2 + y**2) / 2.0, tf.identity(counter)

    gradients, loss, passes = sharpness_aware(one_pass, [x, y], [counter], 0.1)
    r = 0.1 / np.sqrt(13.0)
    np.testing.assert_allclose(gradients, [3 * (1 + 3 * r), 2 + 2 * r], rtol=1e-6)
    assert (float(loss), int(passes), int(counter)) == (3.5, 1, 1)
    assert (float(x), float(y)) == (1.0, 2.0)


def test_without_gradient_nothing_moves():
    weight = tf.Variable([1.0, 2.0])
    gradients, *_ = sharpness_aware(lambda: ([tf.zeros(2)], 0.0, 0.0), [weight], [], RHO)
    assert gradients[0].numpy().tolist() == [0.0, 0.0] and weight.numpy().tolist() == [1.0, 2.0]


def gradients_at(recognizer, loss, batch, values):
    """Returns loss and gradients at other weights, in float64 arrays; the weights are put back."""
    variables = recognizer.updated_variables()
    before = [v.numpy() for v in variables]
    for variable, value in zip(variables, values):
        variable.assign(value)
    with tf.GradientTape() as tape:
        mean = tf.reduce_mean(loss(batch["label"], recognizer(batch["image"], training=True)))
    found = [g.numpy().astype(np.float64) for g in tape.gradient(mean, variables)]
    for variable, value in zip(variables, before):
        variable.assign(value)
    return float(mean), found


@pytest.mark.parametrize("arguments", [{}, {"accumulate_steps": 4}, {"jit_compile": True}], ids=str)
def test_an_update_equals_two_passes_outside(arguments):
    optimizer = MXNetSGD(learning_rate=0.1, momentum=0.0)
    recognizer = tiny_recognizer(False, optimizer=optimizer, loss="cosface", sam_rho=RHO, **arguments)
    variables, batch, loss = recognizer.updated_variables(), tiny_batch(8), losses.get("cosface")
    start = [v.numpy().astype(np.float64) for v in variables]
    value, first = gradients_at(recognizer, loss, batch, start)
    norm = np.sqrt(sum(np.sum(g * g) for g in first))
    _, second = gradients_at(recognizer, loss, batch, [w + RHO * g / norm for w, g in zip(start, first)])
    history = fit_once(recognizer, batch).history
    for variable, w, g, plain in zip(variables, start, second, first):
        size = 0.1 * np.abs(g).max()
        np.testing.assert_allclose(variable.numpy() - w, -0.1 * g, atol=1e-3 * size + 1e-7, err_msg=variable.name)
        assert np.abs(g - plain).max() > 1e-3 * np.abs(plain).max(), "the second pass must matter"
    assert history["loss"][0] == pytest.approx(value, rel=1e-5), "the loss that is shown is that at the weights"


def test_statistics_move_once():
    """After one update the moving statistics are those of a run without it, which saw the same weights."""
    plain, sharp = tiny_recognizer(), tiny_recognizer(sam_rho=RHO)
    for recognizer in (plain, sharp):
        fit_once(recognizer, tiny_batch())
    one, two = read_state(plain), read_state(sharp)
    for name in ("embedding/bn/moving_mean", "embedding/bn/moving_variance"):
        np.testing.assert_array_equal(two[name], one[name])
    assert not np.array_equal(one["head/centres"], two["head/centres"])


def test_frozen_variables_do_not_climb():
    recognizer = tiny_recognizer(sam_rho=1.0)
    recognizer.set_stage(losses.get("arcface"), frozen=["embedding/*"])
    before = read_state(recognizer)
    fit_once(recognizer, tiny_batch())
    after = read_state(recognizer)
    assert np.array_equal(after["embedding/conv/kernel"], before["embedding/conv/kernel"])
    assert not np.array_equal(after["head/centres"], before["head/centres"])


def test_no_state_is_added():
    assert named_variables(tiny_recognizer(sam_rho=RHO)).keys() == named_variables(tiny_recognizer()).keys()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="sam_rho must be above 0"):
        tiny_recognizer(sam_rho=-0.1)

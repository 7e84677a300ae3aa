"""Margins as pure functions: values, slopes, what happens beyond pi and at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.errors import InputError
from facetrain.losses.margins import BEYOND, SINE_FLOOR, angle, combined_margin

ENDS = [-1.0, 1.0, -1.0000001, 1.0000001, np.nextafter(1, 0, dtype="f4"), np.nextafter(-1, 0, dtype="f4"), 0.0]


def slow_margin(cosine, m1, m2, m3, beyond):
    """One number at a time, from the formulas in the docstring."""
    theta = math.acos(min(1.0, max(-1.0, cosine)))
    phi = m1 * theta + m2
    if phi <= math.pi or beyond == "none":
        return math.cos(phi) - m3
    if beyond == "mirror":
        turns = math.floor(phi / math.pi)
        return (-1) ** turns * math.cos(phi) - 2 * turns - m3
    rest = math.pi - (math.pi - m2) / m1
    return cosine - max(rest * math.sin(rest), 1 - math.cos(rest)) - m3


def _value_and_slope(cosines, **arguments):
    cosines = tf.constant(cosines)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        values = combined_margin(cosines, **arguments)
    return values.numpy(), tape.gradient(values, cosines).numpy()


@pytest.mark.parametrize("beyond", BEYOND)
@pytest.mark.parametrize(
    "m1,m2,m3", [(1, 0.5, 0), (1, 0, 0.4), (0.9, 0.4, 0.15), (1.7, 0, 0), (1.35, 0.3, 0.1), (1, 2.9, 0)]
)
def test_equals_the_formula(m1, m2, m3, beyond):
    cosines = np.linspace(-0.999, 0.999, 201)
    values, slopes = _value_and_slope(cosines, m1=float(m1), m2=float(m2), m3=float(m3), beyond=beyond)
    slow = np.array([slow_margin(c, m1, m2, m3, beyond) for c in cosines])
    np.testing.assert_allclose(values, slow, atol=1e-12)
    ahead = np.array([slow_margin(c + 1e-7, m1, m2, m3, beyond) for c in cosines])
    behind = np.array([slow_margin(c - 1e-7, m1, m2, m3, beyond) for c in cosines])
    numeric = (ahead - behind) / 2e-7
    smooth = np.abs(numeric) < 1e3  # the jump of the cosface continuation has no slope
    assert smooth.sum() >= 200
    np.testing.assert_allclose(slopes[smooth], numeric[smooth], rtol=1e-5, atol=1e-6)


def test_arcface_by_hand():
    # cos(60 deg + 30 deg) = 0; its slope is sin(90 deg) / sin(60 deg) = 2 / sqrt(3).
    values, slopes = _value_and_slope([0.5], m2=math.pi / 6)
    np.testing.assert_allclose(values, [0.0], atol=1e-7)
    np.testing.assert_allclose(slopes, [2 / math.sqrt(3)], rtol=1e-6)
    # Beyond pi - m the published code falls back to cos - m sin m, with slope one.
    values, slopes = _value_and_slope([-0.95], m2=0.5)
    np.testing.assert_allclose(values, [-0.95 - 0.5 * math.sin(0.5)], rtol=1e-6)
    np.testing.assert_allclose(slopes, [1.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("beyond", BEYOND)
@pytest.mark.parametrize("backward", ["exact", "straight_through"])
@pytest.mark.parametrize("m1,m2,m3", [(1.0, 0.5, 0.0), (1.0, 0.0, 0.4), (1.35, 0.0, 0.0), (0.9, 0.4, 0.15)])
def test_finite_at_the_ends_and_beyond(dtype, beyond, backward, m1, m2, m3):
    cosines = np.array(ENDS, dtype)
    values, slopes = _value_and_slope(cosines, m1=m1, m2=m2, m3=m3, beyond=beyond, backward=backward)
    assert np.isfinite(values).all() and np.isfinite(slopes).all()
    slow = [slow_margin(float(c), m1, m2, m3, beyond) for c in cosines]
    np.testing.assert_allclose(values, slow, atol=2e-6 if dtype == "float32" else 1e-7)
    if backward == "straight_through":
        np.testing.assert_array_equal(slopes, 1.0)
    elif beyond != "none":
        assert (slopes >= 0).all()


@settings(max_examples=60, deadline=None)
@given(
    m1=st.floats(0.5, 4.0),
    m2=st.floats(0.0, 3.1),
    m3=st.floats(0.0, 1.0),
    beyond=st.sampled_from(["cosface", "mirror"]),
)
def test_falls_in_the_angle(m1, m2, m3, beyond):
    angles = np.linspace(0, math.pi, 400)
    values = combined_margin(tf.constant(np.cos(angles)), m1, m2, m3, beyond).numpy()
    assert (np.diff(values) <= 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 1.5), st.floats(-1.0, 1.0))
def test_never_above_the_plain_cosine(margin, cosine):
    for beyond in ("cosface", "mirror"):
        assert combined_margin(tf.constant([cosine], tf.float64), m2=margin, beyond=beyond) <= cosine + 1e-9


def test_margins_for_each_example_have_gradients():
    cosines = tf.constant([0.3, -0.2, -0.99], tf.float64)
    margins = tf.constant([0.2, 0.5, 0.7], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(margins)
        values = combined_margin(cosines, m2=margins, m3=margins / 2)
    slow = [slow_margin(float(c), 1.0, float(m), float(m) / 2, "cosface") for c, m in zip(cosines, margins)]
    np.testing.assert_allclose(values, slow, atol=1e-12)
    numeric = [
        (
            slow_margin(float(c), 1.0, m + 1e-6, (m + 1e-6) / 2, "cosface")
            - slow_margin(float(c), 1.0, m - 1e-6, (m - 1e-6) / 2, "cosface")
        )
        / 2e-6
        for c, m in zip(cosines, margins.numpy())
    ]
    np.testing.assert_allclose(tape.gradient(values, margins), numeric, rtol=1e-6)


def test_angle_keeps_small_angles_in_float32():
    cosine = np.float32(1) - np.float32(2) ** -24  # the largest float32 below one
    np.testing.assert_allclose(angle(tf.constant([cosine])), [math.acos(float(cosine))], rtol=1e-6)
    with tf.GradientTape() as tape:
        x = tf.constant([1.0, -1.0])
        tape.watch(x)
        theta = angle(x)
    np.testing.assert_allclose(theta, [0.0, math.pi], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(theta, x), [-1 / SINE_FLOOR] * 2, rtol=1e-6)


def test_refuses_unknown_choices():
    with pytest.raises(InputError, match="beyond must be one of cosface, mirror, none"):
        combined_margin(tf.constant([0.1]), m2=0.5, beyond="easy")
    with pytest.raises(InputError, match="backward must be one of"):
        combined_margin(tf.constant([0.1]), m2=0.5, backward="none")

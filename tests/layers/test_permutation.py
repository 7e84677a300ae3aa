"""The permutation against what a permutation is, and its uniformity by chi-square."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facetrain.layers.permutation import _feistel, permuted


def order(first: int, size: int, seed: int, step: int) -> list[int]:
    return permuted(first, size, tf.constant([seed, step], tf.int64)).numpy().tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**40), st.integers(0, 2**40))
def test_is_a_permutation_and_its_beginning_does_not_depend_on_how_much_is_asked_for(size, seed, step):
    whole = order(size, size, seed, step)
    assert sorted(whole) == list(range(size))
    assert order((size + 1) // 2, size, seed, step) == whole[: (size + 1) // 2]


def test_seed_and_step_change_it():
    orders = [tuple(order(30, 30, seed, step)) for seed in range(8) for step in range(8)]
    assert len(set(orders)) == 64


def test_rounds_equal_integer_arithmetic():
    """The network once more, in Python's unbounded integers."""
    keys, bits = [7, 2**31 + 5, 2**32 - 1, 0, 12345, 1, 2, 3], 7
    found = _feistel(tf.constant(range(128), tf.uint32), tf.constant(keys, tf.uint32), bits).numpy()
    slow = []
    for number in range(128):
        high, low = 3, 4
        left, right = number >> low, number % 2**low
        for key in keys:
            mixed = right ^ key
            for factor, shift in ((0x85EBCA6B, 15), (0xC2B2AE35, 16)):
                mixed = mixed * factor % 2**32
                mixed ^= mixed >> shift
            left, right = right, left ^ (mixed % 2**high)
            high, low = low, high
        slow.append(left << low | right)
    assert found.tolist() == slow
    assert sorted(slow) == list(range(128))


@pytest.mark.parametrize("size", [5, 33, 64])
def test_every_number_is_equally_likely_at_every_place(size):
    draw = tf.function(lambda step: permuted(size, size, tf.stack([tf.constant(3, tf.int64), step])))
    draws = np.stack([draw(tf.constant(step, tf.int64)) for step in range(1500)])
    smallest = min(stats.chisquare(np.bincount(draws[:, place], minlength=size)).pvalue for place in (0, 1, size - 1))
    assert smallest > 1e-3


def test_large_sizes_stay_within_and_distinct():
    size = 2**31 - 1
    found = permuted(20_000, size, tf.constant([1, 2], tf.int64)).numpy()
    assert found.min() >= 0 and found.max() < size and len(np.unique(found)) == 20_000
    assert abs(found.mean() / size - 0.5) < 0.01

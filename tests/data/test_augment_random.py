"""The random numbers behind augmentation: even, independent, and the same in whatever order they are asked."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facetrain.data.augment_random import uniforms


def test_random_numbers_are_even_and_independent():
    numbers = uniforms(1, 2, np.arange(50_000), "x", 4)
    assert numbers.dtype == np.float32 and numbers.min() >= 0 and numbers.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T])
    # Expected 2,500 in each of 80 bins, standard deviation 48.7.
    assert np.abs(counts - 2500).max() < 5 * 48.7
    others = [uniforms(2, 2, np.arange(50_000), "x", 1), uniforms(1, 3, np.arange(50_000), "x", 1)]
    others += [uniforms(1, 2, np.arange(50_000), "y", 1), uniforms(1, 2, np.arange(1, 50_001), "x", 1)]
    correlations = np.corrcoef(np.concatenate([numbers, *others], axis=1).T) - np.eye(8)
    assert np.abs(correlations).max() < 5 / np.sqrt(50_000)


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.lists(st.integers(0, 2**62), min_size=1, max_size=9))
def test_random_numbers_depend_on_the_image_not_on_its_batch(seed, epoch, indices):
    together = uniforms(seed, epoch, np.array(indices), "x", 3)
    alone = [uniforms(seed, epoch, np.array([index]), "x", 3)[0] for index in indices]
    np.testing.assert_array_equal(together, alone)


def test_random_numbers_are_the_splitmix64_of_plain_integers():
    def mix(x):
        x %= 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden, stream = 0x9E3779B97F4A7C15, 0x8CDC1683  # CRC-32 of "x"
    start = mix(mix(mix(5) + 3 * golden) ^ stream)
    for index in (0, 1, 10**12):
        expected = [(mix(mix(index * golden + start) + place * golden) >> 40) / 2**24 for place in (1, 2, 3)]
        np.testing.assert_array_equal(uniforms(5, 3, np.array([index]), "x", 3)[0], np.float32(expected))

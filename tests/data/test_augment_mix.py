"""Mixup: partners and weights, against the beta distribution and a loop; the rest is tested with the pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv
from scipy.stats import kstest

from facetrain.data import augment
from facetrain.data.augment_mix import Mixup, beta_quantiles, mix, mix_in_graph
from tests.data.augmenting import IMAGES, INDICES


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4, 1.0, 2.0, 8.0, 16.0])
def test_quantiles_are_those_of_the_beta_distribution(alpha):
    shares = np.concatenate([np.linspace(0, 1, 999, endpoint=False), [1e-6, 1 - 1e-6]])
    np.testing.assert_allclose(beta_quantiles(alpha, shares), betaincinv(alpha, alpha, shares), atol=2e-4)


def test_weights_and_partners_are_spread_as_they_should():
    mixing = Mixup(alpha=0.4, probability=0.5).draw(3, 1, np.arange(40_000), 1000)
    assert abs(mixing.mixed.mean() - 0.5) < 0.01
    assert kstest(mixing.weights[mixing.mixed], "beta", args=(0.4, 0.4)).pvalue > 1e-3
    counts = np.bincount(mixing.partners[mixing.mixed], minlength=1000)
    assert len(counts) == 1000 and abs(counts.std() - np.sqrt(20)) < 1
    np.testing.assert_array_equal(mixing.partners[~mixing.mixed], np.flatnonzero(~mixing.mixed))


def test_every_image_of_a_large_set_can_be_a_partner():
    partners = Mixup(probability=1).draw(0, 0, np.arange(20_000), 2**40).partners
    assert partners.min() >= 0 and partners.max() < 2**40
    assert 0.48 < (partners % 2).mean() < 0.52  # 24 bits alone would make all of them even


@given(st.integers(0, 2**40), st.integers(0, 1000), st.lists(st.integers(0, 99), min_size=1, max_size=6))
def test_what_an_image_gets_does_not_depend_on_its_batch(seed, epoch, indices):
    together = Mixup().draw(seed, epoch, np.array(indices), 100)
    for place, index in enumerate(indices):
        alone = Mixup().draw(seed, epoch, np.array([index]), 100)
        assert (alone.partners[0], alone.weights[0]) == (together.partners[place], together.weights[place])


def test_seeds_and_epochs_differ():
    draws = {Mixup().draw(seed, epoch, INDICES, 40).weights.tobytes() for seed in range(3) for epoch in range(3)}
    assert len(draws) == 9


@pytest.mark.parametrize("mixup", [Mixup(alpha=0), Mixup(probability=0)])
def test_at_zero_strength_nothing_is_mixed(mixup):
    mixing = mixup.draw(3, 1, INDICES, 40)
    np.testing.assert_array_equal(mixing.weights, 1)
    np.testing.assert_array_equal(mixing.partners, INDICES)


def test_pixels_are_the_weighted_mean_on_both_ways():
    mixing = Mixup(alpha=1, probability=0.6).draw(3, 1, INDICES, 40)
    expected = np.stack(
        [w * own + (1 - w) * IMAGES[p] for own, p, w in zip(IMAGES.astype(float), mixing.partners, mixing.weights)]
    )
    mixed = IMAGES.copy()
    mix(mixed, IMAGES[mixing.partners[mixing.mixed]], mixing.weights)
    assert np.abs(mixed - expected).max() <= 0.5 + 1e-3
    in_graph = mix_in_graph(
        tf.cast(IMAGES, tf.float32), tf.cast(IMAGES[mixing.partners], tf.float32), mixing.weights
    ).numpy()
    assert np.abs(in_graph - expected).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(mixed[~mixing.mixed], IMAGES[~mixing.mixed])


def test_a_chain_carries_it_beside_what_changes_single_images():
    chain = augment.build(["flip", {"name": "mixup", "alpha": 0.3}])
    assert len(chain) == 1 and chain.mixup.alpha == 0.3
    assert augment.build("mixup").mixup.probability == 0.5 and augment.build("flip").mixup is None
    np.testing.assert_array_equal(chain(IMAGES, 3, 1, INDICES), augment.build("flip")(IMAGES, 3, 1, INDICES))

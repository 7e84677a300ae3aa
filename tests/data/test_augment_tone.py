"""Augmentations by tables, against scikit-image, TensorFlow Addons and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from skimage.exposure import rescale_intensity

from facetrain.data.augment import AUGMENTATIONS
from facetrain.data.augment_tone import Autocontrast, Equalize, Posterize, Solarize
from tests.data.augmenting import IMAGES, SIZE, addons_image, drawn, in_graph
from tests.data.faces import pictures

ZEROS = np.zeros((len(IMAGES), 1), np.float32)
FLAT = np.full((3, SIZE, SIZE, 3), (7, 100, 255), np.uint8)
DULL = (IMAGES // 5 + 90).astype(np.uint8)


@pytest.mark.parametrize("name", ["posterize", "solarize", "autocontrast", "equalize"])
def test_touches_those_whose_number_says_so(name):
    numbers = drawn(name)
    result = AUGMENTATIONS.build({"name": name, "probability": 0.4})(DULL, numbers)
    changed = (result != DULL).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, numbers[:, 0] < 0.4)
    assert 0 < changed.sum() < 40


def test_posterize_keeps_the_upper_bits():
    for bits in range(1, 9):
        step = 2 ** (8 - bits)
        np.testing.assert_array_equal(Posterize(bits, 1)(IMAGES, ZEROS), IMAGES // step * step)


def test_solarize_inverts_from_its_threshold_on():
    for threshold in (0, 1, 99.5, 128, 255, 256):
        inverted = Solarize(threshold, 1)(IMAGES, ZEROS)
        np.testing.assert_array_equal(inverted, np.where(IMAGES >= threshold, 255 - IMAGES, IMAGES))


def test_autocontrast_rescales_each_channel():
    result = Autocontrast(1)(DULL, ZEROS)
    for image, stretched in zip(DULL, result):
        for channel in range(3):
            expected = rescale_intensity(image[..., channel].astype(float), out_range=(0, 255))
            assert np.abs(stretched[..., channel] - expected).max() <= 0.5 + 1e-9


def test_equalize_is_that_of_addons():
    for images in (IMAGES[:8], DULL[:8]):
        expected = addons_image().equalize(tf.constant(images)).numpy()
        np.testing.assert_array_equal(Equalize(1)(images, ZEROS[:8]), expected)


def test_equalize_spreads_values_evenly():
    image = pictures(1, 112)
    spread = Equalize(1)((image // 3).astype(np.uint8), ZEROS[:1])
    for channel in range(3):
        counts = np.histogram(spread[..., channel], 8, (0, 256))[0]
        assert counts.min() > 0.5 * counts.mean() and image[..., channel].max() // 3 < 96


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_a_single_colour_stays(name):
    spec = {"name": name, "probability": 1}
    np.testing.assert_array_equal(AUGMENTATIONS.build(spec)(FLAT, ZEROS[:3]), FLAT)
    np.testing.assert_array_equal(in_graph(spec, FLAT, indices=np.arange(3)), FLAT)

"""Blur and sharpness, against scikit-image and TensorFlow Addons."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from skimage.filters import gaussian

from facetrain.data.augment_filter import Blur, Sharpness
from tests.data.augmenting import IMAGES, SIZE, addons_image, drawn
from tests.data.faces import pictures

NOISE = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize("images", [IMAGES, NOISE], ids=["smooth", "noise"])
def test_blur_is_the_gaussian_of_scikit_image(images):
    blur, numbers = Blur(sigma=(0.5, 3), probability=0.6), drawn("blur")
    sigmas = blur.parameters(numbers, SIZE)[:, 0]
    np.testing.assert_array_equal(sigmas > 0, numbers[:, 0] < 0.6)
    np.testing.assert_allclose(sigmas[sigmas > 0], (0.5 + 2.5 * numbers[:, 1].astype(float))[sigmas > 0])
    for image, result, sigma in zip(images, blur(images, numbers), sigmas):
        expected = image
        if sigma:
            reach = np.ceil(3 * sigma) / sigma
            expected = gaussian(image.astype(float), sigma, mode="mirror", truncate=reach, channel_axis=2)
        assert np.abs(result - expected).max() <= 2  # OpenCV's coefficients have 8 bits


def test_blur_wider_than_the_image_is_cut():
    small = pictures(2, 4)
    (sigma, reach) = Blur(sigma=(9, 9), probability=1).parameters(drawn("blur", 1), 4)[0]
    assert (sigma, reach) == (9, 3)
    blurred = Blur(sigma=(9, 9), probability=1)(small, drawn("blur", 2))
    assert np.ptp(blurred[0].reshape(-1, 3), axis=0).max() <= np.ptp(small[0].reshape(-1, 3), axis=0).max() / 3


def test_sharpness_is_that_of_addons():
    numbers = drawn("sharpness", 12)
    results = Sharpness(strength=0.9)(NOISE[:12], numbers)
    for image, result, (number,) in zip(NOISE, results, numbers.astype(float)):
        factor = float(1 + 0.9 * (2 * number - 1))
        expected = addons_image().sharpness(tf.constant(image), factor).numpy().astype(int)
        assert np.abs(result - expected).max() <= 2  # they cut decimals off, of the smoothed image and of the result
        np.testing.assert_array_equal(result[[0, -1]], image[[0, -1]])
        np.testing.assert_array_equal(result[:, [0, -1]], image[:, [0, -1]])


def test_sharpness_goes_both_ways():
    flat, sharp = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    middle = NOISE[:1, 1:-1, 1:-1].astype(float).std()
    assert Sharpness(1)(NOISE[:1], flat)[:, 1:-1, 1:-1].std() < 0.6 * middle
    assert Sharpness(1)(NOISE[:1], sharp)[:, 1:-1, 1:-1].std() > 1.1 * middle

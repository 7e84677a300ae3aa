"""JPEG and low resolution, against TensorFlow's codec and resizing, and block averages of scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from skimage.transform import downscale_local_mean

from facetrain.data.augment_quality import Jpeg, LowResolution
from tests.data.augmenting import IMAGES, SIZE, drawn
from tests.data.faces import pictures


def test_jpeg_is_that_of_tensorflow():
    jpeg, numbers = Jpeg(quality=(10, 90), probability=0.7), drawn("jpeg")
    qualities = jpeg.parameters(numbers, SIZE)[:, 0]
    np.testing.assert_array_equal(qualities > 0, numbers[:, 0] < 0.7)
    assert 10 <= qualities[qualities > 0].min() < 25 and 75 < qualities.max() <= 90
    for image, result, quality in zip(IMAGES, jpeg(IMAGES, numbers), qualities.tolist()):
        expected = image
        if quality:
            data = tf.io.encode_jpeg(image, quality=quality)
            expected = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy()
        np.testing.assert_array_equal(result, expected)


def test_jpeg_loses_more_at_lower_quality():
    zeros = np.zeros((len(IMAGES), 2), np.float32)
    losses = [
        np.abs(Jpeg(quality=(q, q), probability=1)(IMAGES, zeros).astype(int) - IMAGES).mean() for q in (5, 30, 95)
    ]
    assert losses[0] > losses[1] > losses[2] > 0


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_low_resolution_by_whole_factors_is_block_averages_enlarged(factor):
    images = pictures(6, SIZE, seed=4)
    result = LowResolution(factor=(factor, factor), probability=1)(images, drawn("low_resolution", 6))
    for image, low in zip(images, result):
        small = np.rint(downscale_local_mean(image, (factor, factor, 1)))
        expected = tf.image.resize(small, (SIZE, SIZE), "bilinear")
        assert np.abs(low - expected).max() <= 1.5


def test_low_resolution_by_any_factor_is_area_then_bilinear():
    low, numbers = LowResolution(factor=(1, 6), probability=0.7), drawn("low_resolution")
    sides = low.parameters(numbers, SIZE)[:, 0]
    chosen = numbers[:, 0] < 0.7
    np.testing.assert_array_equal(sides[~chosen], SIZE)
    np.testing.assert_array_equal(sides[chosen], np.rint(SIZE / (1 + 5 * numbers[chosen, 1].astype(float))))
    assert len(set(sides.tolist())) > 8
    for image, result, side in zip(IMAGES, low(IMAGES, numbers), sides.tolist()):
        small = tf.round(tf.image.resize(image, (side, side), "area"))
        assert np.abs(result - tf.image.resize(small, (SIZE, SIZE), "bilinear")).max() <= 2

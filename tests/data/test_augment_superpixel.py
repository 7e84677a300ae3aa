"""Superpixel dropout, against a loop over the segments of scikit-image."""

from __future__ import annotations

import numpy as np
from skimage.segmentation import slic

from facetrain.data.augment_random import uniforms
from facetrain.data.augment_superpixel import SuperpixelDropout
from tests.data.augmenting import IMAGES, SIZE

NUMBERS = uniforms(2, 0, np.arange(40), "x", 13)


def test_chosen_segments_become_their_mean_colour():
    results = SuperpixelDropout(fraction=0.4, segments=12, probability=0.7)(IMAGES, NUMBERS)
    flattened = kept = 0
    for image, result, numbers in zip(IMAGES, results, NUMBERS):
        expected = image.copy()
        if numbers[0] < 0.7:
            labels = slic(image, 12, max_num_iter=5, start_label=0)
            for label in range(labels.max() + 1):
                if numbers[1 + label % 12] < 0.4:
                    expected[labels == label] = np.rint(image[labels == label].mean(axis=0))
                    flattened += 1
                else:
                    kept += 1
        np.testing.assert_array_equal(result, expected)
    assert flattened > 50 and kept > 50


def test_all_segments_of_all_images_leave_few_colours():
    results = SuperpixelDropout(fraction=1, segments=12, probability=1)(IMAGES, NUMBERS)
    assert max(len(np.unique(result.reshape(-1, 3), axis=0)) for result in results) <= 20
    assert np.abs(results.astype(float).mean(axis=(1, 2)) - IMAGES.mean(axis=(1, 2))).max() < 0.5  # means stay


def test_parts_are_as_asked_for():
    dropped = SuperpixelDropout(fraction=0.3, segments=12, probability=0.6).parameters(
        uniforms(5, 0, np.arange(5000), "x", 13), SIZE
    )
    touched = dropped.any(axis=1)
    assert abs(touched.mean() - 0.6 * (1 - 0.7**12)) < 0.03
    assert abs(dropped.mean() - 0.18) < 0.01

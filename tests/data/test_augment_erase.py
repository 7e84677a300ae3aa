"""Augmentations that hide a part, against loops over pixels."""

from __future__ import annotations

import numpy as np

from facetrain.data.augment_erase import Cutout, Erase
from tests.data.augmenting import IMAGES, SIZE, drawn


def test_cutout_hides_a_square_about_its_centre():
    augmented = Cutout(side=0.5, probability=0.7, fill=9)(IMAGES, drawn("cutout"))
    for image, result, (number, x, y) in zip(IMAGES, augmented, drawn("cutout")):
        expected = image.copy()
        if number < 0.7:
            for i in range(SIZE):
                for j in range(SIZE):
                    if -6 <= i - int(y * SIZE) < 6 and -6 <= j - int(x * SIZE) < 6:
                        expected[i, j] = 9
        np.testing.assert_array_equal(result, expected)


def test_erase_hides_the_area_it_says_inside_the_image():
    numbers = drawn("erase", 500)
    boxes = Erase(area=(0.1, 0.3), aspect=2, probability=0.6).parameters(numbers, 100)
    erased = boxes[:, 2] > boxes[:, 0]
    np.testing.assert_array_equal(erased, numbers[:, 0] < 0.6)
    assert boxes.min() == 0 and boxes.max() == 100
    width, height = (boxes[erased, 2:] - boxes[erased, :2]).T
    assert 0.09 < (width * height / 1e4).min() < 0.12 and 0.28 < (width * height / 1e4).max() < 0.31
    ratio = np.maximum(width / height, height / width)
    assert 1.9 < ratio.max() < 2.1
    left = Erase(area=(0.25, 0.25), aspect=1, probability=1).parameters(numbers, 100)[:, 0]
    assert set(left) == set(range(51))  # all places where it fits, borders included

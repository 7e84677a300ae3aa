"""The mask: where it lies, against the polygon that OpenCV fills, and what it hides."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facetrain.align import arcface_template
from facetrain.data.augment_mask import Mask, mask_outline
from tests.data.augmenting import IMAGES, SIZE, drawn

SIZES = [24, 112, 128, 224]


def usual(size: int) -> np.ndarray:
    """Where the mask lies that is not shifted, bool [size, size]."""
    numbers = np.array([[0.0, 0.5, 0.999, 0.999, 0.999]], np.float32)
    blank = np.zeros((1, size, size, 3), np.uint8)
    return Mask(probability=1)(blank, numbers)[0, ..., 0] > 0


@pytest.mark.parametrize("size", SIZES)
def test_it_hides_nose_and_mouth_but_no_eye(size):
    hidden = usual(size)
    for place, (x, y) in enumerate(np.rint(arcface_template(size)).astype(int)):
        assert hidden[y, x] == (place >= 2)
    assert 0.15 < hidden.mean() < 0.4


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_polygon_between_its_corners(size):
    first, last = mask_outline(size)
    columns = np.flatnonzero(first <= last)
    upper = [(x, first[x]) for x in columns]
    lower = [(x, last[x]) for x in columns[::-1]]
    filled = cv2.fillPoly(np.zeros((size, size), np.uint8), [np.array(upper + lower, np.int32)], 1)
    assert (filled.astype(bool) ^ usual(size)).mean() < 0.005
    assert columns[-1] - columns[0] == len(columns) - 1  # in one piece


def test_it_is_symmetric_like_the_template():
    hidden = usual(112)
    assert (hidden ^ hidden[:, ::-1]).mean() < 0.02


def test_colour_and_height_are_drawn():
    numbers = drawn("mask")
    masked = Mask(height=0.5, probability=0.6)(IMAGES, numbers)
    first, last = mask_outline(SIZE)
    template = arcface_template(SIZE)
    reach = template[2, 1] - (template[0, 1] + template[1, 1]) / 2
    heights = set()
    for image, result, (number, height, *colour) in zip(IMAGES, masked, numbers.astype(float)):
        expected = image.copy()
        if number < 0.6:
            shift = round((2 * height - 1) * 0.5 * reach)
            heights.add(shift)
            for x in range(SIZE):
                expected[max(0, first[x] + shift) : last[x] + 1, x] = [int(256 * value) for value in colour]
        np.testing.assert_array_equal(result, expected)
    assert len(heights) >= 4

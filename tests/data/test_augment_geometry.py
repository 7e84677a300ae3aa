"""Augmentations that move pixels, against padding, and bilinear sampling pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain.data import augment
from facetrain.data.augment_crop import ResizedCrop
from facetrain.data.augment_geometry import Crop, Flip, Warp
from facetrain.errors import InputError
from tests.data.augmenting import IMAGES, INDICES, SIZE, bilinear, chained, drawn


def test_flip_mirrors():
    augmented = Flip(0.3)(IMAGES, drawn("flip"))
    for image, result, number in zip(IMAGES, augmented, drawn("flip")[:, 0]):
        np.testing.assert_array_equal(result, image[:, ::-1] if number < 0.3 else image)


@pytest.mark.parametrize(("border", "mode"), [("reflect", "symmetric"), ("edge", "edge"), ("black", "constant")])
def test_crop_is_a_crop_of_the_padded_image(border, mode):
    augmented = Crop(5, border)(IMAGES, drawn("crop"))
    shifts = set()
    for image, result, (x, y) in zip(IMAGES, augmented, drawn("crop")):
        padded = np.pad(image, ((5, 5), (5, 5), (0, 0)), mode=mode)
        left, top = 10 - int(x * 11), 10 - int(y * 11)
        shifts.add((left, top))
        np.testing.assert_array_equal(result, padded[top : top + SIZE, left : left + SIZE])
    assert len(shifts) > 25


def test_warp_samples_where_its_matrix_points():
    warp = Warp(degrees=30, scale=0.3, translate=0.2, shear=15)
    numbers = drawn("warp")[:4]
    for image, result, matrix in zip(IMAGES, warp(IMAGES[:4], numbers), warp.parameters(numbers, SIZE)):
        # OpenCV rounds positions to 1/32 pixel; neighbouring pixels of these images differ by 30 at most.
        assert np.abs(result - bilinear(image, matrix)).max() < 3


def test_warp_matrices_are_what_their_arguments_say():
    numbers = np.array([[0.75, 0.5, 0.5, 0.5, 0.5], [0.5, 0.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.75, 0.25, 0.5]], np.float32)
    turned, smaller, moved = Warp(degrees=180, scale=1.0, translate=0.5).parameters(numbers, SIZE)
    middle = (SIZE - 1) / 2
    np.testing.assert_allclose(turned @ (middle, middle, 1), (middle, middle, 1), atol=1e-9)
    np.testing.assert_allclose(turned @ (middle + 1, middle, 1), (middle, middle + 1, 1), atol=1e-9)  # 90 degrees
    np.testing.assert_allclose(smaller @ (middle + 2, middle + 4, 1), (middle + 1, middle + 2, 1), atol=1e-9)
    np.testing.assert_allclose(moved @ (0, 0, 1), (SIZE / 4, -SIZE / 4, 1), atol=1e-9)


def test_resized_crop_windows_have_the_area_and_shape_they_should():
    numbers = drawn("resized_crop", 2000)
    matrices = ResizedCrop(area=(0.3, 0.8), aspect=1.25).parameters(numbers, 100)
    corners = np.array([[-0.5, 99.5], [-0.5, 99.5], [1, 1]])  # outer corners of the result
    (left, right), (top, bottom) = (np.linalg.inv(matrices) @ corners)[:, :2].transpose(1, 2, 0)
    assert min(left.min(), top.min()) >= -0.5 - 1e-9 and max(right.max(), bottom.max()) <= 99.5 + 1e-9
    width, height = right - left, bottom - top
    area = width * height / 1e4
    assert 0.3 <= area.min() < 0.31 and 0.79 < area.max() <= 0.8 and abs(area.mean() - 0.55) < 0.015
    ratio = np.maximum(width / height, height / width)
    assert 1.24 < ratio.max() <= 1.25 and ratio.min() < 1.01
    assert left.min() < 0 and right.max() > 99 and top.min() < 0 and bottom.max() > 99


def test_resized_crop_is_the_crop_and_resize_of_tensorflow():
    crop, numbers = ResizedCrop(area=(0.3, 0.6), aspect=1.3), drawn("resized_crop")
    inverse = np.linalg.inv(crop.parameters(numbers, SIZE))
    # TensorFlow's boxes run from the centre of the first pixel to that of the last, in parts of the image's side.
    first, last = (inverse @ (0, 0, 1))[:, :2], (inverse @ (SIZE - 1, SIZE - 1, 1))[:, :2]
    boxes = np.concatenate([first[:, ::-1], last[:, ::-1]], axis=1) / (SIZE - 1)
    expected = tf.image.crop_and_resize(IMAGES, boxes, np.arange(40), (SIZE, SIZE), extrapolation_value=-1).numpy()
    known = expected != -1  # it does not look beyond the centres of the border's pixels
    assert known.mean() > 0.95
    assert np.abs(crop(IMAGES, numbers) - expected)[known].max() < 3


def test_fused_geometry_is_one_warp():
    specs = ["flip", {"name": "crop", "pixels": 3, "border": "edge"}, {"name": "warp", "degrees": 15}, "resized_crop"]
    chain = augment.build(specs)
    (matrices,) = chain.plan(3, 1, INDICES, SIZE)
    result = chain(IMAGES, 3, 1, INDICES)
    for place in range(3):
        assert np.abs(result[place] - bilinear(IMAGES[place], matrices[place])).max() < 3
    # Other borders cannot be fused with each other.
    assert len(augment.build([{"name": "crop", "border": "black"}, "warp"]).plan(0, 0, INDICES, SIZE)) == 2


def test_a_shift_beyond_the_image_is_refused():
    with pytest.raises(InputError, match="images of 24x24 pixels cannot be shifted by 30"):
        chained({"name": "crop", "pixels": 30})

"""RandAugment: its operations one by one against TensorFlow Addons and NumPy, and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from facetrain.data.augment_color import GREY
from facetrain.data.augment_rand import OPERATIONS, RandAugment
from facetrain.data.augment_random import uniforms
from tests.data.augmenting import IMAGES, INDICES, SIZE, addons_image, bilinear, chained, in_graph

PLUS, MINUS = 0.25, 0.75  # numbers that draw a sign


def once(name, images=IMAGES[:4], sign=PLUS, magnitude=6.0):
    numbers = np.tile(np.array([0, sign], np.float32), (len(images), 1))
    return RandAugment(1, magnitude, [name])(images, numbers)


@pytest.mark.parametrize("sign", [PLUS, MINUS])
def test_colours_are_blends_at_full_strength(sign):
    factor = 1 + (0.54 if sign == PLUS else -0.54)
    pixels = IMAGES[:4].astype(float)
    grey = (pixels @ GREY)[..., None]
    expected = {
        "brightness": pixels * factor,
        "contrast": grey.mean(axis=(1, 2), keepdims=True) * (1 - factor) + pixels * factor,
        "color": grey * (1 - factor) + pixels * factor,
    }
    for name, values in expected.items():
        assert np.abs(once(name, sign=sign) - np.clip(values, 0, 255)).max() <= 1, name


def test_tables_and_sharpness_are_those_of_addons_and_numpy():
    images = IMAGES[:4]
    np.testing.assert_array_equal(once("identity"), images)
    np.testing.assert_array_equal(once("equalize"), addons_image().equalize(tf.constant(images)))
    np.testing.assert_array_equal(once("posterize"), images // 4 * 4)  # 8 - round(4 * 0.6) bits
    np.testing.assert_array_equal(once("solarize"), np.where(images >= 256 * 0.4, 255 - images, images))
    stretched = once("autocontrast")
    assert stretched.min() == 0 and stretched.max() == 255
    sharper = addons_image().sharpness(tf.constant(images), 1.54).numpy().astype(int)
    assert np.abs(once("sharpness") - sharper).max() <= 2


@pytest.mark.parametrize(
    ("name", "linear", "shift"),
    [
        ("rotate", [[np.cos(np.pi / 10), -np.sin(np.pi / 10)], [np.sin(np.pi / 10), np.cos(np.pi / 10)]], (0, 0)),
        ("shear_x", [[1, np.tan(0.6 * np.arctan(0.3))], [0, 1]], (0, 0)),
        ("shear_y", [[1, 0], [np.tan(0.6 * np.arctan(0.3)), 1]], (0, 0)),
        ("translate_x", np.eye(2), (0.27 * SIZE, 0)),
        ("translate_y", np.eye(2), (0, 0.27 * SIZE)),
    ],
)
def test_moves_are_what_they_are_called(name, linear, shift):
    middle = np.full(2, (SIZE - 1) / 2)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - matrix[:2, :2] @ middle + shift
    opposite = np.linalg.inv(matrix)
    for sign, expected in ((PLUS, matrix), (MINUS, opposite)):
        for image, result in zip(IMAGES, once(name, IMAGES[:2], sign)):
            assert np.abs(result - bilinear(image, expected)).max() < 4


def test_operations_and_signs_are_drawn_evenly():
    names = list(OPERATIONS)
    numbers = uniforms(1, 0, np.arange(14_000), "x", 4)
    rows = RandAugment(2, 10).parameters(numbers, SIZE)
    first, second = rows.reshape(-1, 2, 33).transpose(1, 0, 2)
    expected = np.floor(numbers[:, 0].astype(float) * 14).astype(int)
    counts = np.bincount(expected, minlength=14)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    turned = first[expected == names.index("rotate")]
    assert set(np.rint(np.degrees(np.arctan2(turned[:, 3], turned[:, 0])))) == {-30, 30}
    assert abs((turned[:, 3] > 0).mean() - 0.5) < 0.08
    # Independent of each other: one of 5 without a sign twice, or one of 9 twice with the same sign.
    assert abs((first == second).all(axis=1).mean() - (5 + 9 / 2) / 14**2) < 0.01


def test_at_magnitude_zero_only_those_without_magnitude_change_an_image():
    others = [name for name in OPERATIONS if name not in ("autocontrast", "equalize")]
    numbers = uniforms(1, 0, np.arange(40), "x", 8)
    np.testing.assert_array_equal(RandAugment(4, 0, others)(IMAGES, numbers), IMAGES)


@pytest.mark.parametrize(
    ("operations", "tolerance"),
    [
        (["autocontrast", "equalize", "posterize", "solarize", "identity"], 0),
        (["rotate", "shear_x", "shear_y", "translate_x", "translate_y"], 5),
        (["color", "contrast", "brightness", "sharpness"], 5),
    ],
)
def test_in_a_graph_the_same_happens_kind_by_kind(operations, tolerance):
    spec = {"name": "rand_augment", "num_ops": 2, "magnitude": 7, "operations": operations}
    assert np.abs(in_graph(spec) - chained(spec)).max() <= tolerance
    assert (chained(spec) != IMAGES).any(axis=(1, 2, 3)).sum() > len(INDICES) // 2

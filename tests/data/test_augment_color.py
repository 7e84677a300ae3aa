"""Augmentations of colour, against their definition step by step and against TensorFlow Addons."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from facetrain.data import augment
from facetrain.data.augment import AUGMENTATIONS
from facetrain.data.augment_color import GREY, Color
from facetrain.data.augment_random import uniforms
from tests.data.augmenting import IMAGES, INDICES, SIZE, addons_image, chained, drawn


def test_color_is_a_chain_of_brightness_contrast_saturation():
    augmented = Color(0.3, 0.4, 0.5)(IMAGES, drawn("color"))
    clipped = 0
    for image, result, numbers in zip(IMAGES, augmented, drawn("color")):
        brightness, contrast, saturation = (1 + s * (2 * float(u) - 1) for s, u in zip((0.3, 0.4, 0.5), numbers))
        expected = image.astype(np.float64) * brightness
        mean_grey = (expected @ GREY).mean()
        expected = mean_grey + contrast * (expected - mean_grey)
        grey = (expected @ GREY)[:, :, None]
        expected = np.clip(grey + saturation * (expected - grey), 0, 255)
        clipped += (expected == 255).any()
        assert np.abs(result - expected).max() <= 1.0  # OpenCV computes with coefficients of 10 bits
    assert clipped > 5


def test_grey_takes_the_colour_away():
    augmented = AUGMENTATIONS.build({"name": "grey", "probability": 0.5})(IMAGES, drawn("grey"))
    for image, result, number in zip(IMAGES, augmented, drawn("grey")[:, 0]):
        if number < 0.5:
            assert np.abs(result - (image @ GREY)[:, :, None]).max() <= 1
        else:
            np.testing.assert_array_equal(result, image)


def test_fused_colours_equal_the_chain_without_clipping_between():
    specs = [{"name": "color", "brightness": 0.1, "contrast": 0.1}, {"name": "grey", "probability": 0.5},
             {"name": "color", "brightness": 0.1, "saturation": 0.1}]  # fmt: skip
    chain = augment.build(specs)
    assert len(chain.plan(0, 0, INDICES, SIZE)) == 1
    parts = [augment.build(spec) for spec in specs]
    streams = ["color:0", "grey:0", "color:1"]
    expected = tf.constant(np.clip(IMAGES, 40, 200), tf.float32)
    for part, stream in zip(parts, streams):
        (augmentation,) = part.augmentations
        numbers = uniforms(3, 1, INDICES, stream, augmentation.num_uniforms)
        pixel, mean, offset = np.split(augmentation.parameters(numbers, SIZE), [3, 6], axis=2)
        means = tf.reduce_mean(expected, axis=[1, 2]).numpy()
        shift = np.einsum("bij,bj->bi", mean, means) + offset[:, :, 0]
        expected = np.einsum("bij,byxj->byxi", pixel, expected) + shift[:, None, None]
    result = chained(specs, np.clip(IMAGES, 40, 200))
    assert np.abs(result - np.clip(expected, 0, 255)).max() <= 1.01


def mapped(color, numbers, images):
    """The maps of a Color without means, on float pixels, unclipped."""
    pixel, mean, offset = np.split(color.parameters(numbers, SIZE), [3, 6], axis=2)
    assert not mean.any() and not offset.any()
    return np.einsum("bij,byxj->byxi", pixel, images)


def test_hue_and_saturation_equal_those_of_addons_in_yiq():
    numbers = drawn("color", 8)
    color = Color(brightness=0, contrast=0, saturation=0.6, hue=0.4)
    ours = mapped(color, numbers, IMAGES[:8] / 255.0)
    for image, result, (_, _, saturation, hue) in zip(IMAGES, ours, numbers.astype(float)):
        expected = addons_image().adjust_hsv_in_yiq(
            tf.constant(image / 255.0, tf.float32), 2 * np.pi * 0.4 * (2 * hue - 1), 1 + 0.6 * (2 * saturation - 1)
        )
        np.testing.assert_allclose(result, expected, atol=3e-3)  # their matrix back to RGB has three digits


def test_hue_keeps_brightness_and_greys_and_turns_back():
    numbers = drawn("color", 40)
    color = Color(0, 0, 0, hue=0.5)
    turned = mapped(color, numbers, IMAGES / 255.0)
    np.testing.assert_allclose(turned @ GREY, IMAGES / 255.0 @ GREY, atol=1e-12)
    assert np.abs(turned - IMAGES / 255.0).max() > 0.3
    greys = np.repeat(IMAGES[..., :1], 3, axis=3) / 255.0
    np.testing.assert_allclose(mapped(color, numbers, greys), greys, atol=1e-12)
    tf_greys = tf.image.adjust_hue(tf.constant(greys), 0.3)  # greys are where HSV and YIQ agree
    np.testing.assert_allclose(tf_greys, greys, atol=1e-6)
    back = mapped(color, 1 - numbers, turned)
    np.testing.assert_allclose(back, IMAGES / 255.0, atol=1e-6)
    half_turns = mapped(color, np.zeros_like(numbers), mapped(color, np.zeros_like(numbers), IMAGES / 255.0))
    np.testing.assert_allclose(half_turns, IMAGES / 255.0, atol=1e-9)


def test_hue_changes_no_draw_of_the_others():
    numbers = drawn("color")
    without = Color(0.3, 0.4, 0.5).parameters(numbers, SIZE)
    np.testing.assert_array_equal(Color(0.3, 0.4, 0.5, hue=0.0).parameters(numbers[:, :3], SIZE), without)

"""Augmentation: each against a slow second derivation, in NumPy and in TensorFlow, and the random numbers behind it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.data import augment
from facetrain.data.augment import AUGMENTATIONS
from facetrain.data.augment_color import GREY, Color
from facetrain.data.augment_erase import Cutout, Erase
from facetrain.data.augment_geometry import Crop, Flip, Warp
from facetrain.data.augment_random import uniforms
from facetrain.errors import InputError
from tests.data.faces import pictures

SIZE = 24
IMAGES = pictures(40, SIZE)
INDICES = np.arange(40)
ZERO = {
    "flip": {"probability": 0},
    "crop": {"pixels": 0},
    "warp": {"degrees": 0, "scale": 0, "translate": 0, "shear": 0},
    "color": {"brightness": 0, "contrast": 0, "saturation": 0},
    "grey": {"probability": 0},
    "cutout": {"probability": 0},
    "erase": {"probability": 0},
}
STRONG = [
    {"name": "flip"},
    {"name": "crop", "pixels": 5, "border": "reflect"},
    {"name": "crop", "pixels": 5, "border": "edge"},
    {"name": "crop", "pixels": 5, "border": "black"},
    {"name": "warp", "degrees": 20, "scale": 0.2, "translate": 0.1, "shear": 10},
    {"name": "warp", "degrees": 180, "scale": 0.5, "translate": 0.3, "border": "reflect"},
    {"name": "color", "brightness": 0.5, "contrast": 0.5, "saturation": 0.8},
    {"name": "grey", "probability": 0.5},
    {"name": "cutout", "side": 0.5, "probability": 0.8},
    {"name": "erase", "area": (0.1, 0.5), "probability": 0.8, "fill": 0},
]


def drawn(name, count=len(INDICES), seed=11):
    return uniforms(seed, 0, np.arange(count), name, AUGMENTATIONS.build(name).num_uniforms)


# Random numbers


def test_random_numbers_are_even_and_independent():
    numbers = uniforms(1, 2, np.arange(50_000), "x", 4)
    assert numbers.dtype == np.float32 and numbers.min() >= 0 and numbers.max() < 1
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T])
    # Expected 2,500 in each of 80 bins, standard deviation 48.7.
    assert np.abs(counts - 2500).max() < 5 * 48.7
    others = [uniforms(2, 2, np.arange(50_000), "x", 1), uniforms(1, 3, np.arange(50_000), "x", 1)]
    others += [uniforms(1, 2, np.arange(50_000), "y", 1), uniforms(1, 2, np.arange(1, 50_001), "x", 1)]
    correlations = np.corrcoef(np.concatenate([numbers, *others], axis=1).T) - np.eye(8)
    assert np.abs(correlations).max() < 5 / np.sqrt(50_000)


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.lists(st.integers(0, 2**62), min_size=1, max_size=9))
def test_random_numbers_depend_on_the_image_not_on_its_batch(seed, epoch, indices):
    together = uniforms(seed, epoch, np.array(indices), "x", 3)
    alone = [uniforms(seed, epoch, np.array([index]), "x", 3)[0] for index in indices]
    np.testing.assert_array_equal(together, alone)


def test_random_numbers_are_the_splitmix64_of_plain_integers():
    def mix(x):
        x %= 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden, stream = 0x9E3779B97F4A7C15, 0x8CDC1683  # CRC-32 of "x"
    start = mix(mix(mix(5) + 3 * golden) ^ stream)
    for index in (0, 1, 10**12):
        expected = [(mix(mix(index * golden + start) + place * golden) >> 40) / 2**24 for place in (1, 2, 3)]
        np.testing.assert_array_equal(uniforms(5, 3, np.array([index]), "x", 3)[0], np.float32(expected))


# Each augmentation


def test_every_augmentation_is_tried_here():
    assert {spec["name"] for spec in STRONG} == set(ZERO) == set(AUGMENTATIONS.names())


@pytest.mark.parametrize("name", ZERO)
def test_at_zero_strength_nothing_changes(name):
    augmentation = AUGMENTATIONS.build({"name": name, **ZERO[name]})
    np.testing.assert_array_equal(augmentation(IMAGES, drawn(name)), IMAGES)


@pytest.mark.parametrize("spec", STRONG, ids=lambda spec: spec["name"])
def test_some_images_change_and_the_given_ones_stay(spec):
    before = IMAGES.copy()
    augmented = AUGMENTATIONS.build(spec)(IMAGES, drawn(spec["name"]))
    assert augmented.dtype == np.uint8 and augmented.shape == IMAGES.shape
    assert (augmented != IMAGES).any(axis=(1, 2, 3)).sum() >= 10
    np.testing.assert_array_equal(IMAGES, before)


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


def bilinear(image, matrix):
    """Samples pixel by pixel where the inverse of ``matrix`` points, the border's pixels beyond the border."""
    inverse = np.linalg.inv(matrix)
    result = np.zeros(image.shape)
    for y in range(SIZE):
        for x in range(SIZE):
            u, v, _ = inverse @ (x, y, 1)
            i, j = int(np.floor(v)), int(np.floor(u))
            for di, wi in ((0, 1 - v + i), (1, v - i)):
                for dj, wj in ((0, 1 - u + j), (1, u - j)):
                    row, column = np.clip([i + di, j + dj], 0, SIZE - 1)
                    result[y, x] += wi * wj * image[row, column]
    return result


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


# Chains


def chained(specs, images=IMAGES, seed=3, epoch=1, indices=INDICES):
    return augment.build(specs)(images, seed, epoch, indices)


@pytest.mark.parametrize("spec", STRONG, ids=lambda spec: spec["name"])
def test_in_a_graph_the_same_happens(spec):
    chain = augment.build(spec)
    plan = chain.plan(3, 1, INDICES, SIZE)
    in_graph = tf.function(chain.in_graph)(IMAGES, [tf.constant(parameters) for parameters in plan])
    assert in_graph.dtype == tf.float32
    difference = np.abs(in_graph.numpy() - chain(IMAGES, 3, 1, INDICES))
    exact = spec["name"] in ("flip", "crop", "cutout", "erase")
    assert difference.max() <= (1e-3 if exact else 4 if spec["name"] == "warp" else 1)


def test_a_chain_does_one_after_the_other():
    specs = [{"name": "crop", "pixels": 4}, "flip", {"name": "color"}, {"name": "cutout"}, {"name": "erase"}]
    expected = IMAGES
    for spec in specs:
        expected = chained(spec, expected)
    difference = np.abs(chained(specs).astype(int) - expected)
    np.testing.assert_array_equal(difference, 0)


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


def test_fused_geometry_is_one_warp():
    specs = ["flip", {"name": "crop", "pixels": 3, "border": "edge"}, {"name": "warp", "degrees": 15}]
    chain = augment.build(specs)
    (matrices,) = chain.plan(3, 1, INDICES, SIZE)
    result = chain(IMAGES, 3, 1, INDICES)
    for place in range(3):
        assert np.abs(result[place] - bilinear(IMAGES[place], matrices[place])).max() < 3
    # Other borders cannot be fused with each other.
    assert len(augment.build([{"name": "crop", "border": "black"}, "warp"]).plan(0, 0, INDICES, SIZE)) == 2


@pytest.mark.parametrize("specs", [["flip", "crop", "color", "erase"], ["color"], ["cutout", "warp"], []])
@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)), epoch=st.integers(0, 5))
def test_what_happens_to_an_image_does_not_depend_on_its_batch(specs, order, epoch):
    order = np.array(order)
    whole = chained(specs, IMAGES[:12], epoch=epoch, indices=INDICES[:12])
    np.testing.assert_array_equal(chained(specs, IMAGES[order], epoch=epoch, indices=order), whole[order])
    np.testing.assert_array_equal(chained(specs, IMAGES[5:6], epoch=epoch, indices=np.array([5])), whole[5:6])


def test_another_augmentation_beside_it_changes_no_draw():
    alone = augment.build("flip").plan(3, 1, INDICES, SIZE)[0]
    beside = augment.build(["color", "flip"]).plan(3, 1, INDICES, SIZE)[1]
    np.testing.assert_array_equal(alone, beside)
    twice = augment.build([{"name": "cutout"}, {"name": "cutout"}]).plan(3, 1, INDICES, SIZE)
    assert (twice[0] != twice[1]).any()


def test_epochs_and_seeds_differ():
    results = [chained(["crop", "color"], seed=seed, epoch=epoch) for seed in range(2) for epoch in range(2)]
    assert len({result.tobytes() for result in results}) == 4


def test_builds_from_anything_that_says_what_is_meant():
    assert len(augment.build(None)) == len(augment.build([])) == 0
    assert augment.build("flip").augmentations[0].probability == 0.5
    assert augment.build({"name": "crop", "pixels": 7}).augmentations[0].pixels == 7
    flip = Flip(0.1)
    chain = augment.build([flip, "grey"])
    assert chain.augmentations[0] is flip and len(chain) == 2 and augment.build(chain) is chain


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flop", "unknown augmentation 'flop'; did you mean 'flip'"),
        ({"name": "flip", "propability": 1}, "'flip' has no argument 'propability'; did you mean 'probability'"),
        ({"name": "flip", "probability": 2}, "probability is a number in 0..1, received 2"),
        ({"name": "color", "contrast": "high"}, "contrast is a number in 0..1, received 'high'"),
        ({"name": "crop", "pixels": 1.5}, "pixels is a whole number, received 1.5"),
        ({"name": "crop", "border": "refect"}, "unknown border 'refect'; did you mean 'reflect'"),
        ({"name": "erase", "area": 0.2}, r"area is \(least, largest\)"),
        ({"pixels": 3}, "augmentation needs a 'name'"),
        ([3], "received 3"),
    ],
)
def test_says_what_is_wrong_with_a_spec(spec, message):
    with pytest.raises(InputError, match=message):
        augment.build(spec)


def test_a_shift_beyond_the_image_is_refused():
    with pytest.raises(InputError, match="images of 24x24 pixels cannot be shifted by 30"):
        chained({"name": "crop", "pixels": 30})

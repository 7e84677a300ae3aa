"""What all augmentations have in common, and chains of them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.data import augment
from facetrain.data.augment import AUGMENTATIONS
from facetrain.data.augment_geometry import Flip
from facetrain.errors import InputError
from tests.data.augmenting import IMAGES, INDICES, SIZE, STRONG, ZERO, chained, drawn, in_graph

EXACT = set("flip crop cutout erase mask posterize solarize autocontrast equalize jpeg superpixel_dropout".split())
WARPING = {"warp", "resized_crop"}  # OpenCV rounds positions to 1/32 pixel
ONE_OF_EACH = [spec for spec in STRONG if spec["name"] not in ("superpixel_dropout", "rand_augment")]

# Each augmentation


def test_every_augmentation_is_tried_here():
    assert {spec["name"] for spec in STRONG} == set(ZERO) == set(AUGMENTATIONS.names()) - {"mixup"}


@pytest.mark.parametrize("name", ZERO)
def test_at_zero_strength_nothing_changes(name):
    spec = {"name": name, **ZERO[name]}
    np.testing.assert_array_equal(AUGMENTATIONS.build(spec)(IMAGES, drawn(spec)), IMAGES)


@pytest.mark.parametrize("spec", STRONG, ids=lambda spec: spec["name"])
def test_some_images_change_and_the_given_ones_stay(spec):
    before = IMAGES.copy()
    augmented = AUGMENTATIONS.build(spec)(IMAGES, drawn(spec))
    assert augmented.dtype == np.uint8 and augmented.shape == IMAGES.shape
    assert (augmented != IMAGES).any(axis=(1, 2, 3)).sum() >= 10
    np.testing.assert_array_equal(IMAGES, before)


# Chains


@pytest.mark.parametrize("spec", STRONG, ids=lambda spec: spec["name"])
def test_in_a_graph_the_same_happens(spec):
    difference = np.abs(in_graph(spec) - chained(spec))
    if spec["name"] == "rand_augment":  # a value beside a threshold falls to either side: see its own test
        assert (difference > 3).mean() < 0.03
    else:
        assert difference.max() <= (1e-3 if spec["name"] in EXACT else 4 if spec["name"] in WARPING else 1)


@pytest.mark.parametrize("name", ZERO)
def test_in_a_graph_at_zero_strength_nothing_changes(name):
    np.testing.assert_array_equal(in_graph({"name": name, **ZERO[name]}), IMAGES)


def test_images_may_be_written_over_themselves():
    for spec in STRONG:
        chain = augment.build(spec)
        rows, (plan,) = IMAGES.copy(), chain.plan(3, 1, INDICES, SIZE)
        paint = chain.augmentations[0].stage.painter(plan, SIZE)
        for k, row in enumerate(rows):
            paint(k, row, row)
        np.testing.assert_array_equal(rows, chained(spec), err_msg=spec["name"])


def test_what_xla_does_not_compile_is_refused_and_the_rest_compiles():
    for spec in STRONG:
        chain = augment.build(spec)
        try:
            chain.require_device(compiled=True)
        except InputError as error:
            assert "XLA does not compile it" in str(error) or chain.augmentations[0].stage.host_only
            continue
        plan = chain.plan(3, 1, INDICES, SIZE)
        compiled = tf.function(chain.in_graph, jit_compile=True)(IMAGES, [tf.constant(part) for part in plan])
        assert np.abs(compiled - chained(spec)).max() <= 1, spec
    augment.build(["warp"]).require_device(compiled=False)
    with pytest.raises(InputError, match="'rand_augment' cannot run on a device: XLA .* needs jit_compile off"):
        augment.build(["color", "rand_augment"]).require_device(compiled=True)


def test_what_cannot_run_on_a_device_is_refused_by_name():
    refused = []
    for name in AUGMENTATIONS.names():
        try:
            augment.build(["flip", name]).require_device()
        except InputError as error:
            assert f"augmentation {name!r} cannot run on a device: " in str(error)
            refused.append(name)
    assert refused == ["jpeg", "superpixel_dropout"]


def test_a_chain_does_one_after_the_other():
    specs = [{"name": "crop", "pixels": 4}, "flip", {"name": "color"}, {"name": "cutout"}, {"name": "erase"}]
    expected = IMAGES
    for spec in specs:
        expected = chained(spec, expected)
    difference = np.abs(chained(specs).astype(int) - expected)
    np.testing.assert_array_equal(difference, 0)


@pytest.mark.parametrize(
    "specs", [["flip", "crop", "color", "erase"], ["color"], ["cutout", "warp"], ONE_OF_EACH, ["rand_augment"], []]
)
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
        ({"name": "erase", "area": 0.2}, r"area is \(least, largest\), two numbers in 0..1, received 0.2"),
        ({"name": "erase", "area": (0.3, 0.2)}, r"area is .* the smaller number first, received \(0.3, 0.2\)"),
        ({"name": "blur", "sigma": [0, "wide"]}, "sigma is a number in 0..16, received 'wide'"),
        ({"name": "jpeg", "quality": [0, 50]}, "quality is a number in 1..100, received 0"),
        ({"name": "low_resolution", "factor": [0.5, 2]}, "factor is a number in 1..16, received 0.5"),
        ({"name": "resized_crop", "area": [0, 1]}, "area is a number in 0.01..1, received 0"),
        ({"name": "posterize", "bits": 3.5}, "bits is a whole number, received 3.5"),
        ({"name": "superpixel_dropout", "segments": 9.5}, "segments is a whole number, received 9.5"),
        ({"name": "color", "hue": 0.7}, "hue is a number in 0..0.5, received 0.7"),
        ({"name": "rand_augment", "num_ops": 1.5}, "num_ops is a whole number, received 1.5"),
        ({"name": "rand_augment", "operations": ["rotat"]}, "unknown operation 'rotat' .* did you mean 'rotate'"),
        ({"name": "rand_augment", "operations": []}, "operations is a list of names, at least one"),
        (["mixup", "flip"], "mixup .* stands last"),
        (["mixup", "mixup"], "mixup .* stands last"),
        ({"pixels": 3}, "augmentation needs a 'name'"),
        ([3], "received 3"),
    ],
)
def test_says_what_is_wrong_with_a_spec(spec, message):
    with pytest.raises(InputError, match=message):
        augment.build(spec)

"""Cached variants: made by the chain, drawn by a hash, and never mixed up with others."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from facetrain.data import augment
from facetrain.data.augment_random import uniforms
from facetrain.data.cache import DecodedCache, cache_bytes, cache_key
from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import EpochOrder
from facetrain.data.variants import VariantImages, Variants
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures

SIZE, COUNT = 16, 30
CHAIN = ["flip", {"name": "crop", "pixels": 2}, "color"]


@pytest.fixture
def source():
    return ListedSource(pictures(COUNT), np.repeat(np.arange(10), 3), broken=[4, 11])


def versions_by_the_chain(seed, count):
    """[COUNT, count, S, S, 3] by calling the chain itself, as for epochs from 2**31 on."""
    chain, indices = augment.build(CHAIN), np.arange(COUNT)
    return np.stack([chain(pictures(COUNT), seed, 2**31 + v, indices) for v in range(count)], axis=1)


def batches(images, labels, augmentations=(), epochs=1, workers=2):
    order = EpochOrder(len(labels), 7, seed=2)
    return list(build_pipeline(images, labels, order, augmentations, 5, 0, 0, epochs, workers).as_numpy_iterator())


def test_the_cache_holds_what_the_chain_makes(source, tmp_path):
    cache = DecodedCache.open_or_build(source, SIZE, tmp_path, variants=Variants(4, CHAIN, seed=5))
    expected = versions_by_the_chain(5, 4)[cache.kept]
    assert len(cache) == 28 and cache.images.shape == (28, SIZE, SIZE, 3) and cache.images.dtype == np.uint8
    np.testing.assert_array_equal(cache.images.rows.reshape(expected.shape), expected)
    assert len(np.unique(expected.reshape(28 * 4, -1), axis=0)) > 28 * 3  # versions differ


def test_each_epoch_takes_the_version_that_the_hash_draws(source, tmp_path):
    cache = DecodedCache.open_or_build(source, SIZE, tmp_path, variants=Variants(3, CHAIN, seed=5))
    expected = versions_by_the_chain(5, 3)[cache.kept]
    drawn = []
    for number, batch in enumerate(batches(cache.images, cache.labels, epochs=6)):
        versions = np.floor(3 * uniforms(5, number // 4, batch["index"], "variant", 1)[:, 0].astype(float)).astype(int)
        np.testing.assert_array_equal(batch["image"], expected[batch["index"], versions])
        np.testing.assert_array_equal(batch["label"], cache.labels[batch["index"]])
        drawn.extend(versions)
    assert len(drawn) == 6 * 28 and np.bincount(drawn).min() > 168 / 3 - 6 * 6.2  # standard deviation 6.1


def test_what_follows_runs_each_step_with_other_numbers(source, tmp_path):
    cache = DecodedCache.open_or_build(source, SIZE, tmp_path, variants=Variants(2, ["flip"], seed=5))
    for batch in batches(cache.images, cache.labels, "flip", epochs=1):
        rows = cache.images.rows[cache.images.rows_of(0, batch["index"])]
        mirrored = uniforms(5, 0, batch["index"], "flip:0", 1)[:, 0] < 0.5
        np.testing.assert_array_equal(batch["image"][mirrored], rows[mirrored][:, :, ::-1])
        np.testing.assert_array_equal(batch["image"][~mirrored], rows[~mirrored])
    everything = np.arange(1000)
    made, step = (uniforms(5, epoch, everything, "flip:0", 1)[:, 0] < 0.5 for epoch in (2**31, 0))
    assert abs((made == step).mean() - 0.5) < 6 * 0.016


def test_versions_are_drawn_evenly_up_to_the_last():
    for count in (1, 2, 3, 7, 64):
        images = VariantImages(np.zeros((1000 * count, 1, 1, 3), np.uint8), Variants(count, ["flip"], 1))
        rows = np.stack([images.rows_of(epoch, np.arange(1000)) for epoch in range(20)])
        np.testing.assert_array_equal(rows // count, np.tile(np.arange(1000), (20, 1)))
        times = np.bincount((rows % count).ravel(), minlength=count)
        assert np.abs(times - 20000 / count).max() < 6 * np.sqrt(20000 / count)


def test_a_stream_that_starts_later_draws_the_same(source, tmp_path):
    cache = DecodedCache.open_or_build(source, SIZE, tmp_path, variants=Variants(3, CHAIN, seed=5))
    whole = batches(cache.images, cache.labels, ["color"], epochs=2)
    order = EpochOrder(28, 7, seed=2)
    later = build_pipeline(cache.images, cache.labels, order, ["color"], 5, 1, 2, num_epochs=2, workers=1)
    for one, other in zip(later.as_numpy_iterator(), islice(whole, 6, None)):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_all_that_matters_is_in_the_name(source):
    variants = [
        None,
        Variants(1, CHAIN, 5),
        Variants(2, CHAIN, 5),
        Variants(2, CHAIN, 6),
        Variants(2, CHAIN[:2], 5),
        Variants(2, CHAIN[::-1], 5),
        Variants(2, ["flip", {"name": "crop", "pixels": 3}, "color"], 5),
    ]
    assert len({cache_key(source, SIZE, one) for one in variants}) == len(variants)
    # Said in other words: as a mapping, and with defaults written out.
    same = Variants(2, [{"name": "flip", "probability": 0.5}, {"name": "crop", "pixels": 2}, {"name": "color"}], 5)
    assert cache_key(source, SIZE, same) == cache_key(source, SIZE, variants[2])


def test_the_size_is_that_of_all_versions(source):
    assert cache_bytes(source, SIZE, Variants(4, CHAIN)) == 4 * cache_bytes(source, SIZE) == 4 * 30 * 16 * 16 * 3


@pytest.mark.parametrize(
    ("count", "augmentations", "message"),
    [
        (0, CHAIN, "received 0 and"),
        (2, [], r"at least one augmentation that makes them differ, received 2 and \[\]"),
        (2, "flop", "unknown augmentation 'flop'; did you mean 'flip'"),
        (2, [augment.AUGMENTATIONS.build("flip")], "made by augmentations with a name"),
    ],
)
def test_says_what_does_not_fit(count, augmentations, message):
    with pytest.raises(InputError, match=message):
        Variants(count, augmentations)

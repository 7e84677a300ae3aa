"""Decoding with threads, and what becomes of images that cannot be decoded."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from facetrain.data.decoding import DecodingImages, Unreadable, read_crops, worker_count
from facetrain.errors import InputError
from tests.data.faces import ListedSource, pictures

PIXELS = pictures(100, 16)
LABELS = np.repeat(np.arange(25), 4)


@pytest.mark.parametrize("workers", [1, 3])
def test_yields_all_images_in_order(workers):
    source = ListedSource(PIXELS, LABELS, broken=[0, 41, 99])
    crops = list(read_crops(source, 16, workers))
    assert len(crops) == 100
    for index, crop in enumerate(crops):
        if index in (0, 41, 99):
            assert isinstance(crop, Unreadable) and crop.name == f"image{index}" and "no image" in crop.reason
        else:
            np.testing.assert_array_equal(crop, PIXELS[index])


def test_reads_no_further_ahead_than_it_needs():
    source = ListedSource(np.repeat(PIXELS, 10, axis=0), np.repeat(LABELS, 10))
    crops = read_crops(source, 16, workers=1)
    next(crops)
    crops.close()
    assert source.reads < 300


def test_gathers_what_is_asked_for():
    images = DecodingImages(ListedSource(PIXELS, LABELS), 16, workers=3)
    assert images.shape == (100, 16, 16, 3) and images.dtype == np.uint8 and len(images) == 100
    wanted = np.array([7, 3, 3, 99, 0, 12, 50])
    pixels, taken = images.gather(wanted)
    np.testing.assert_array_equal(pixels, PIXELS[wanted])
    np.testing.assert_array_equal(taken, wanted)


@pytest.mark.parametrize("workers", [1, 2])
def test_gathers_nothing_if_nothing_is_asked_for(workers):
    pixels, taken = DecodingImages(ListedSource(PIXELS, LABELS), 16, workers=workers).gather(np.array([], np.int64))
    assert pixels.shape == (0, 16, 16, 3) and not len(taken)


def test_replaces_an_unreadable_image_by_the_next_of_the_same_identity(caplog):
    images = DecodingImages(ListedSource(PIXELS, LABELS, broken=[5, 6, 7]), 16)
    for _ in range(2):
        pixels, taken = images.gather(np.array([5, 7, 8]))
        np.testing.assert_array_equal(taken, [4, 4, 8])
        np.testing.assert_array_equal(pixels, PIXELS[taken])
    assert sorted(name for name, _ in images.unreadable) == ["image5", "image6", "image7"]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 3 and any("'image5' is unreadable" in message for message in warned)


def test_takes_another_identity_when_none_is_left_of_one():
    images = DecodingImages(ListedSource(PIXELS, LABELS, broken=[4, 5, 6, 7]), 16)
    pixels, taken = images.gather(np.array([4]))
    assert LABELS[taken[0]] != 1
    np.testing.assert_array_equal(pixels[0], PIXELS[taken[0]])


def test_fails_if_told_to_or_if_nothing_is_readable():
    images = DecodingImages(ListedSource(PIXELS, LABELS, broken=[5]), 16, on_unreadable="fail")
    assert len(images.gather(np.arange(5))[0]) == 5
    with pytest.raises(InputError, match="image 'image5': .*set on_unreadable to 'skip'"):
        images.gather(np.arange(8))
    hopeless = DecodingImages(ListedSource(PIXELS[:2], [0, 1], broken=[0, 1]), 16)
    with pytest.raises(InputError, match="none of the 2 images is readable"):
        hopeless.gather(np.array([0]))


def test_checks_its_arguments():
    with pytest.raises(InputError, match="on_unreadable is one of skip, fail, received 'ignore'"):
        DecodingImages(ListedSource(PIXELS[:2], [0, 1]), 16, on_unreadable="ignore")
    with pytest.raises(InputError, match="workers is 1 or more, received 0"):
        worker_count(0)

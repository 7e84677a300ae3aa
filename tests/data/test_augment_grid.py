"""The picture of augmentations: what stands in it, and where."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.data import augment
from facetrain.data.augment import AUGMENTATIONS
from facetrain.data.augment_grid import default_faces, draw_grid, shown_specs
from facetrain.errors import InputError
from facetrain.images import decode_image
from tests.data.faces import pictures

SMALL = 20
RED = np.full((SMALL, SMALL, 3), (200, 30, 30), np.uint8)
BLUE = np.full((SMALL, SMALL, 3), (30, 30, 200), np.uint8)


def share(picture, colour):
    """The part of a picture that is of about one colour."""
    return (np.abs(picture.astype(int) - colour).max(axis=2) < 12).mean()


def test_original_and_draws_fill_their_cells():
    picture = decode_image(draw_grid(RED, BLUE, ["flip", {"name": "erase", "fill": 0}], draws=3))
    other = decode_image(draw_grid(RED, BLUE, ["flip"], draws=3))
    assert picture.shape[1] == other.shape[1] and picture.shape[0] > 1.5 * other.shape[0]
    middle = picture.shape[1] * 2 // 3
    assert share(picture[:, middle:], (200, 30, 30)) > 0.6
    assert share(picture[:, : picture.shape[1] // 4], (255, 255, 255)) > 0.9  # labels


def test_mixup_shows_the_partner():
    picture = decode_image(draw_grid(RED, BLUE, [{"name": "mixup", "alpha": 8, "probability": 1}], draws=6))
    purple = (np.abs(picture[..., 0].astype(int) - picture[..., 2]) < 100) & (picture[..., 1] < 60)
    assert purple.mean() > 0.1


def test_a_chain_adds_a_row():
    one, two = (decode_image(draw_grid(RED, BLUE, ["flip", "color"], chain=chain)) for chain in (False, True))
    assert two.shape[0] > 1.3 * one.shape[0]


def test_every_augmentation_is_shown_at_work():
    specs = shown_specs()
    assert [spec["name"] for spec in specs] == AUGMENTATIONS.names()
    noise = np.random.default_rng(0).integers(-20, 21, (40, 32, 32, 3))
    images = np.clip(pictures(40, 32) + noise, 0, 255).astype(np.uint8)
    for spec in specs:
        chain = augment.build(spec)
        if chain.mixup is None and spec["name"] != "flip":
            changed = (chain(images, 0, 0, np.arange(40)) != images).any(axis=(1, 2, 3))
            assert changed.mean() > 0.7, spec


def test_draws_follow_the_seed():
    first, again, other = (draw_grid(*default_faces(32), ["warp"], draws=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"specs": []}, "at least one augmentation"),
        ({"specs": ["flip"], "draws": 33}, "1..32 draws, received 33"),
        ({"specs": ["flip"], "image": RED[:9]}, "two square images of one size"),
        ({"specs": ["flip"], "image": RED.astype(float)}, "expected an RGB image"),
    ],
)
def test_says_what_cannot_be_drawn(arguments, message):
    with pytest.raises(InputError, match=message):
        draw_grid(**{"image": RED, "partner": BLUE, **arguments})

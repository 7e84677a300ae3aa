"""Small pictures and pair sets for the tests of this folder."""

from __future__ import annotations

import numpy as np

from facetrain.evaluation import PairSet
from facetrain.images import encode_png


def picture(seed: int, size: int = 16) -> np.ndarray:
    """Returns a uint8 [size, size, 3] picture that differs from seed to seed."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def picture_pairs(num_pairs: int = 6, size: int = 16) -> PairSet:
    """Returns pairs, alternately of the same picture and of two, over ``num_pairs + 1`` pictures."""
    pairs = [(i, i if i % 2 == 0 else i + 1) for i in range(num_pairs)]
    images = [encode_png(picture(i, size)) for i in range(num_pairs + 1)]
    return PairSet(images, np.arange(num_pairs) % 2 == 0, np.array(pairs), name="pictures")

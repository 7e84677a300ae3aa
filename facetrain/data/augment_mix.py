"""Mixup: two images and their labels in one example; the partner comes from the whole data set, drawn by hash."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from facetrain.data.augment_base import check_range
from facetrain.data.augment_random import uniforms

_TABLE = 4096


class Mixing(NamedTuple):
    """What some images are mixed with: partner, int64 [B], and the weight of the image itself, float32 [B].

    A weight of 1 means that the image stays alone; its partner is then the image itself.
    """

    partners: np.ndarray
    weights: np.ndarray

    @property
    def mixed(self) -> np.ndarray:
        """Which of the images are mixed, bool [B]."""
        return self.weights < 1


class Mixup:
    """Mixes an image with another of the data set: pixels and losses are weighted by a share from Beta(alpha, alpha).

    It changes no image by itself and stands last in a chain: both images are augmented as each would be alone.
    Reference: Zhang et al., ICLR 2018, arXiv 1710.09412.

    Args:
        alpha: 0..16: small ones leave one of the two nearly alone, 1 draws all shares evenly; 0 mixes nothing.
        probability: 0..1, of an image to be mixed.
    """

    name = "mixup"
    num_uniforms = 4

    def __init__(self, alpha: float = 0.2, probability: float = 0.5):
        self.alpha = check_range("alpha", alpha, 0, 16)
        self.probability = check_range("probability", probability, 0, 1)

    def draw(self, seed: int, epoch: int, indices: np.ndarray, num_images: int) -> Mixing:
        """Draws partners and weights; what an image gets depends on the arguments and its index alone.

        Args:
            seed: of the run, 0 or above.
            epoch: 0 or above.
            indices: int64 [B], which images.
            num_images: N, of the whole data set.
        """
        indices = np.asarray(indices, np.int64)
        drawn, share, coarse, fine = uniforms(seed, epoch, indices, f"{self.name}:0", self.num_uniforms).T
        weights = beta_quantiles(self.alpha, share) if self.alpha else np.ones(len(indices))
        weights = np.where(drawn < self.probability, weights, 1).astype(np.float32)
        # Two numbers of 24 bits: one alone could not name each of more than 16 million images.
        place = coarse.astype(np.float64) + fine.astype(np.float64) * 2.0**-24
        partners = np.minimum(np.floor(place * num_images).astype(np.int64), num_images - 1)
        return Mixing(np.where(weights < 1, partners, indices), weights)


def mix(images: np.ndarray, partners: np.ndarray, weights: np.ndarray) -> None:
    """Mixes images with others, in place.

    Args:
        images: uint8 [B, S, S, 3], written.
        partners: uint8 [number of mixed images, S, S, 3], in the order of the images they belong to.
        weights: float32 [B], of the images themselves; those with weight 1 stay as they are.
    """
    for place, partner in zip(np.flatnonzero(weights < 1), partners):
        weight = float(weights[place])
        cv2.addWeighted(images[place], weight, partner, 1 - weight, 0, dst=images[place])


def mix_in_graph(images: Any, partners: Any, weights: Any) -> Any:
    """Mixes images with others by TensorFlow: float32 [B, S, S, 3] both, in 0..255, weights [B]; returns float32."""
    import tensorflow as tf

    weights = tf.cast(weights, tf.float32)[:, None, None, None]
    mixed = tf.round(weights * images + (1 - weights) * partners)
    return tf.where(weights < 1, mixed, images)


def beta_quantiles(alpha: float, shares: np.ndarray) -> np.ndarray:
    """Returns the quantiles of the distribution Beta(alpha, alpha), float64, for shares in [0, 1).

    The density is integrated up to 1/2 over x**alpha, in which it has no pole at 0; beyond, it is symmetric.
    """
    half = np.minimum(shares, 1 - shares).astype(np.float64)
    grid = np.linspace(0, 1, _TABLE + 1)
    power = max(1.0, 1 / alpha)
    x = 0.5 * grid**power
    density = (1 - x) ** (alpha - 1)
    below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) * np.diff(x**alpha))])
    quantile = 0.5 * np.interp(half, 0.5 * below / below[-1], grid) ** power
    return np.where(shares <= 0.5, quantile, 1 - quantile)

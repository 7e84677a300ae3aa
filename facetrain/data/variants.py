"""Augmented versions of each image that are made once, when a cache is built, and of which each epoch takes one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np

from facetrain.data import augment
from facetrain.data.augment_random import uniforms
from facetrain.errors import InputError

# Versions draw the numbers of epochs that no training reaches, so that what runs each step draws others.
_FIRST_EPOCH = 2**31
_STREAM = "variant"


class Variants:
    """How the versions of an image are made.

    Args:
        count: versions of each image, 1 or above.
        augmentations: what makes them, names or mappings for ``augment.build``, at least one.
        seed: of the run, 0 or above.

    Raises:
        InputError: if there is nothing to make or no augmentation to make it by, or for an unknown augmentation.
    """

    def __init__(self, count: int, augmentations: Union[str, Mapping[str, Any], Sequence[Any]], seed: int = 0):
        specs = [augmentations] if isinstance(augmentations, (str, Mapping)) else list(augmentations)
        if count < 1 or not specs:
            raise InputError(
                "cached variants need a count of 1 or above and at least one augmentation that makes them differ, "
                f"received {count} and {specs!r}"
            )
        self.count = count
        self.seed = seed
        self.chain = augment.build(specs)
        self._specs = [_spelled_out(spec) for spec in specs]

    def key(self) -> list[Any]:
        """Returns all that decides what the versions look like, as plain values."""
        return ["variants", self.count, self.seed, self._specs]

    def make(self, index: int, crop: np.ndarray) -> np.ndarray:
        """Makes the versions of one image.

        Args:
            index: of the image in its source.
            crop: uint8 [S, S, 3].

        Returns:
            uint8 [count, S, S, 3].
        """
        versions = np.empty((self.count, *crop.shape), np.uint8)
        for number in range(self.count):
            target = versions[number : number + 1]
            self.chain.write([crop], target, self.seed, _FIRST_EPOCH + number, np.array([index]))
        return versions


class VariantImages:
    """Cached versions as the pipeline takes them: of each image the one that a hash of (seed, epoch, image) draws.

    Args:
        rows: uint8 [N * count, S, S, 3], the versions of image 0, of image 1, ...
        variants: how they were made.
    """

    def __init__(self, rows: np.ndarray, variants: Variants):
        self.rows = rows
        self.count = variants.count
        self.seed = variants.seed
        self.shape = (len(rows) // variants.count, *rows.shape[1:])
        self.dtype = rows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def rows_of(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """Returns which rows some images are in an epoch.

        Args:
            epoch: 0 or above.
            indices: int64 [B], images.

        Returns:
            int64 [B], of ``rows``.
        """
        drawn = uniforms(self.seed, epoch, indices, _STREAM, 1)[:, 0].astype(np.float64)
        return indices * self.count + (drawn * self.count).astype(np.int64)


def _spelled_out(spec: Any) -> dict[str, Any]:
    """Returns an augmentation with all its arguments: other defaults make other versions."""
    if not isinstance(spec, (str, Mapping)):
        raise InputError(f"cached variants are made by augmentations with a name, received {spec!r}")
    arguments = {"name": spec} if isinstance(spec, str) else dict(spec)
    parameters = inspect.signature(augment.AUGMENTATIONS.get(arguments["name"])).parameters.values()
    return {**{p.name: p.default for p in parameters if p.default is not p.empty}, **arguments}

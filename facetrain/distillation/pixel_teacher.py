"""What every teacher that looks at pixels provides, and what all of them do with crops and results."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import resize_image


class PixelTeacher(Protocol):
    """A model that embeds crops.

    Attributes:
        kind: one of ``facetrain.distillation.kinds.KINDS``.
        input_size: side of the crops it computes on, pixels; others are resized.
        embedding_size: length of its embeddings.
        in_step: whether it computes inside the train step; otherwise its embeddings come with the batch.
    """

    kind: str
    input_size: int
    embedding_size: int
    in_step: bool

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Returns embeddings float32 [B, D] of crops uint8 [B, S, S, 3], RGB, of any size S."""

    def describe(self) -> dict[str, Any]:
        """Returns ``kind``, ``digest`` and ``contract``, for manifests."""


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Returns crops uint8 [B, size, size, 3]; the array itself if it has that size."""
    return images if images.shape[1] == size else np.stack([resize_image(image, size) for image in images])


def checked_embeddings(found: Any, count: int, size: int, path: PathLike) -> np.ndarray:
    """Returns what a model returned as float32 [count, size].

    Raises:
        InputError: if it has another shape.
    """
    found = np.asarray(found, np.float32)
    if found.shape != (count, size):
        raise InputError(f"{path}: should return [{count}, {size}] for {count} images, returned {list(found.shape)}")
    return found

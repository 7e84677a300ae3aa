"""Proof that an exported model gives the embeddings of the model it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

EmbedFunction = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, S, S, 3] RGB -> float32 [N, D]."""

_SMALLEST_NORM = 1e-12
_NUM_GENERATED = 8


class ExportError(RuntimeError):
    """An exported model that cannot be made, or that gives other embeddings than its source."""


class Parity(NamedTuple):
    """How much an exported model differs from its source.

    Attributes:
        max_abs_diff: largest difference of a component of the unit-length embeddings.
        min_cosine: smallest cosine between the two embeddings of an image.
        num_images: images it was measured on.
        mean_cosine: mean of the cosines.
    """

    max_abs_diff: float
    min_cosine: float
    num_images: int
    mean_cosine: float


def measure_parity(source: EmbedFunction, exported: EmbedFunction, images: np.ndarray) -> Parity:
    """Compares the unit-length embeddings of two models on the same images.

    Args:
        source: the model that was exported.
        exported: what was read back from the file.
        images: uint8 [N, S, S, 3], N >= 1.

    Raises:
        ExportError: if shapes differ or an embedding is not finite.
    """
    expected, received = (np.asarray(embed(images), np.float64) for embed in (source, exported))
    if expected.shape != received.shape:
        raise ExportError(
            f"the source gives embeddings of shape {list(expected.shape)}, the export {list(received.shape)}"
        )
    if not (np.isfinite(expected).all() and np.isfinite(received).all()):
        raise ExportError("an embedding is not finite; the weights of the model have probably diverged")
    expected, received = _unit(expected), _unit(received)
    # Two embeddings of length zero agree, though they have no angle.
    cosines = np.where((expected == received).all(axis=1), 1.0, np.sum(expected * received, axis=1))
    return Parity(float(np.abs(expected - received).max()), float(cosines.min()), len(images), float(cosines.mean()))


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), _SMALLEST_NORM)


def agrees(parity: Parity, lowest_cosine: float, judged_by: str = "min") -> bool:
    """Returns whether the smallest cosine (``"min"``) or the mean one (``"mean"``) reaches ``lowest_cosine``."""
    return getattr(parity, f"{judged_by}_cosine") >= lowest_cosine


def check_parity(parity: Parity, lowest_cosine: float, what: str, judged_by: str = "min") -> Parity:
    """Returns ``parity``; raises ExportError with the numbers if it does not reach ``lowest_cosine``.

    Args:
        parity: what was measured.
        lowest_cosine: the gate.
        what: the file, for the message.
        judged_by: ``"min"`` holds the worst image against the gate, ``"mean"`` the mean of all.
    """
    if not agrees(parity, lowest_cosine, judged_by):
        wanted = "" if judged_by == "min" else "mean "
        raise ExportError(
            f"{what} was not written: its embeddings should agree with the model's to a {wanted}cosine of "
            f"{lowest_cosine}, the worst of {parity.num_images} images has {parity.min_cosine:.6f}, the mean is "
            f"{parity.mean_cosine:.6f} (largest difference {parity.max_abs_diff:.2e}); --force writes it all the same"
        )
    return parity


def generated_images(size: int, count: int = _NUM_GENERATED, seed: int = 0) -> np.ndarray:
    """Returns smooth random pictures, uint8 [count, size, size, 3], for want of real crops."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 8, 8, 3))
    places = np.linspace(0, 7, size)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)))
    return np.einsum("yi,nijc,xj->nyxc", weights, coarse, weights).round().astype(np.uint8)

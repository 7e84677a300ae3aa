"""Class centres for another set of people: known ones keep theirs, others get the mean of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from facetrain.models.array_file import VariableArray, assign_rows
from facetrain.models.head_change import regrouped

_SMALLEST_NORM = 1e-12


class IdentityMatch(NamedTuple):
    """Which people of two label maps are the same.

    Attributes:
        new_label: int64 [C before], the label now of each identity before; -1 where it is gone.
        added: int64 [n], labels now of identities that were not there before.
    """

    new_label: np.ndarray
    added: np.ndarray

    @property
    def kept(self) -> int:
        """Number of identities in both."""
        return int(np.count_nonzero(self.new_label >= 0))

    @property
    def dropped(self) -> int:
        """Number of identities that are gone."""
        return len(self.new_label) - self.kept


def match_identities(before: Sequence[str], now: Sequence[str]) -> IdentityMatch:
    """Compares names, given in the order of their labels."""
    labels = {name: label for label, name in enumerate(now)}
    known = set(before)
    return IdentityMatch(
        np.array([labels.get(name, -1) for name in before], np.int64),
        np.array([label for name, label in labels.items() if name not in known], np.int64),
    )


def carry_known(centres: tf.Variable, stored: Any, match: IdentityMatch) -> None:
    """Gives the identities that were known before their centres, under their labels now.

    Args:
        centres: [C, D] or [C, k, D]; other rows stay as they are.
        stored: centres before, [C before, D] or [C before, j, D], with ``shape`` and ``blocks()``.
        match: of the people before and now.
    """
    k = _per_class(centres)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first, block in stored.blocks():
            rows = match.new_label[first : first + len(block)]
            yield rows[rows >= 0], regrouped(block[rows >= 0], k)

    assign_rows(centres, parts())


def set_directions(centres: tf.Variable, labels: np.ndarray, directions: np.ndarray, length: float) -> None:
    """Gives identities centres of one direction and length, all k of them where they have several.

    Args:
        centres: [C, D] or [C, k, D].
        labels: int64 [n].
        directions: float [n, D]; identities whose direction is zero keep the centre they have.
        length: of the centres.
    """
    norms = np.linalg.norm(directions, axis=1)
    there = norms > _SMALLEST_NORM
    scaled = directions[there] * (length / norms[there])[:, np.newaxis]
    assign_rows(centres, [(labels[there], regrouped(scaled.astype(np.float32), _per_class(centres)))])


def mean_length(centres: tf.Variable, labels: np.ndarray) -> float:
    """Returns the mean length of the centres of some identities, read in blocks."""
    wanted = np.zeros(centres.shape[0], bool)
    wanted[labels] = True
    total, count = 0.0, 0
    for first, block in VariableArray(centres).blocks():
        norms = np.linalg.norm(block[wanted[first : first + len(block)]].astype(np.float64), axis=-1)
        total, count = total + float(norms.sum()), count + norms.size
    return total / max(count, 1)


def mean_embeddings(
    embed: Callable[[np.ndarray], np.ndarray],
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    size: int,
) -> np.ndarray:
    """Returns the mean of the normalised embeddings of each of some identities.

    Args:
        embed: pixels [B, S, S, 3] uint8 -> embeddings [B, D].
        batches: yields pixels and labels [B]; images of other identities are embedded in vain.
        labels: int64 [n], distinct and rising.
        size: D.
    Returns:
        float64 [n, D]; zero where an identity has no image.
    """
    sums, counts = np.zeros((len(labels), size)), np.zeros(len(labels))
    for pixels, of in batches:
        found = np.asarray(embed(pixels), np.float64)
        found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _SMALLEST_NORM)
        places = np.searchsorted(labels, of)
        ours = (places < len(labels)) & (labels[np.minimum(places, len(labels) - 1)] == of)
        np.add.at(sums, places[ours], found[ours])
        np.add.at(counts, places[ours], 1)
    return sums / np.maximum(counts, 1)[:, np.newaxis]


def _per_class(centres: tf.Variable) -> int:
    return centres.shape[1] if len(centres.shape) == 3 else 1

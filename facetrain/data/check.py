"""Every image of a data set read and decoded: which are damaged, which stand there twice."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

import numpy as np

from facetrain.align import AlignmentError
from facetrain.data.damage import Damage
from facetrain.data.decoding import map_in_order
from facetrain.data.recordio import RecordError
from facetrain.data.sources import FaceSource, open_source
from facetrain.files import PathLike, atomic_path
from facetrain.images import ImageError
from facetrain.progress import track

_DIGEST_BYTES = 16
_SIZE = 112
_EXAMPLES = 20
_NAMES_OF_EXAMPLE = 4

Look = Union[bytes, str]
"""The digest of a whole image, or what is wrong with it."""


class Repeats(NamedTuple):
    """Images of which the same bytes stand in a data set more than once.

    Attributes:
        within: copies of an image beside it in the same identity; the first of each is not counted.
        across: images that stand under several identities, each counted once.
        examples: of both, first those across: names of a few images and of their identities.
    """

    within: int
    across: int
    examples: list[dict[str, list[str]]]


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        images: number of images looked at.
        identities: number of identities.
        damaged: what is damaged, images first; records that are no image count too.
        repeats: images that stand there more than once.
    """

    images: int
    identities: int
    damaged: list[Damage]
    repeats: Repeats

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged; repeated images are no damage."""
        return not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as values that JSON can hold."""
        return {
            "images": self.images,
            "identities": self.identities,
            "clean": self.clean,
            "damaged": len(self.damaged),
            "damage": [{**damage.place._asdict(), "reason": damage.reason} for damage in self.damaged],
            "duplicates": self.repeats._asdict(),
        }


def open_for_check(path: PathLike) -> FaceSource:
    """Opens a data set also if the labels of some of its records are lost, which training would refuse.

    Raises:
        InputError: if there is no data set, or its index is damaged.
    """
    try:
        return open_source(path)
    except RecordError as error:
        if error.offset is None or not str(error.path).endswith(".rec"):
            raise
        return open_source(path, kind="record", on_damaged="skip")


def check_source(source: FaceSource, workers: int | None = None, show_progress: bool = False) -> CheckReport:
    """Reads, verifies, decodes and, where there are landmarks, aligns every image of a source.

    Args:
        source: the images; its ``verify`` is asked for each.
        workers: threads; None takes one per processor.
        show_progress: whether to show on stderr how far it is.
    Returns:
        what is damaged and what stands there twice. Takes 16 bytes an image.
    """
    digests = np.zeros((source.num_images, _DIGEST_BYTES), np.uint8)
    whole = np.zeros(source.num_images, bool)
    damaged: list[Damage] = []

    def look(chunk: range) -> list[Look]:
        return [_look(source, index) for index in chunk]

    looks = map_in_order(look, source.num_images, workers)
    for index, seen in enumerate(track(looks, "checking", source.num_images, show_progress)):
        if isinstance(seen, str):
            damaged.append(Damage(source.place(index), seen))
        else:
            digests[index] = np.frombuffer(seen, np.uint8)
            whole[index] = True
    damaged += source.damage_beside_images()
    repeats = find_repeats(source, digests, np.flatnonzero(whole))
    return CheckReport(source.num_images, source.num_identities, damaged, repeats)


def _look(source: FaceSource, index: int) -> Look:
    try:
        source.verify(index)
        (data,) = source.read([index])
        source.crop_of(data, index, _SIZE)
    except (ImageError, AlignmentError) as error:
        return _without_place(error)
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _without_place(error: Exception) -> str:
    """Returns what is wrong; records say where they are in front of it, which has columns of its own here."""
    cause = error.__cause__
    return cause.problem if isinstance(cause, RecordError) else str(error)


def find_repeats(source: FaceSource, digests: np.ndarray, chosen: np.ndarray) -> Repeats:
    """Finds images with equal digests.

    Args:
        source: the images, for labels and names.
        digests: uint8 [N, 16].
        chosen: which of them to compare, int64 [M], ascending.
    """
    words = digests.view(np.uint64)[chosen]
    order = np.lexsort((source.labels[chosen], words[:, 1], words[:, 0]))
    words, labels, images = words[order], source.labels[chosen][order], chosen[order]
    same_bytes = (words[1:] == words[:-1]).all(axis=1)
    same_label = labels[1:] == labels[:-1]
    # Groups of equal bytes, and which of them hold neighbours of unequal labels.
    group = np.concatenate([[0], np.cumsum(~same_bytes)])
    groups_across = np.unique(group[1:][same_bytes & ~same_label])
    groups_within = np.setdiff1d(group[1:][same_bytes], groups_across)
    examples = []
    for number in np.concatenate([groups_across, groups_within])[:_EXAMPLES].tolist():
        start, end = np.searchsorted(group, [number, number + 1]).tolist()
        members = np.sort(images[start:end])[:_NAMES_OF_EXAMPLE].tolist()
        people = [source.identities[label] for label in np.unique(labels[start:end])[:_NAMES_OF_EXAMPLE]]
        examples.append({"images": [source.names(index) for index in members], "identities": people})
    return Repeats(int((same_bytes & same_label).sum()), len(groups_across), examples)


def write_damage(path: PathLike, damaged: Sequence[Damage]) -> None:
    """Writes a CSV file with the columns ``file``, ``key``, ``offset`` and ``reason``, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["file", "key", "offset", "reason"])
        table.writerows(["" if part is None else part for part in (*place, reason)] for place, reason in damaged)

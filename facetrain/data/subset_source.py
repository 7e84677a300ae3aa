"""A part of a data set, or one whose identities are merged or renamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from facetrain.data.augment_random import uniforms
from facetrain.data.damage import Place
from facetrain.data.sources import FaceSource, SourceSpec, open_source
from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike


class _Part(FaceSource):
    """Some images of a source, in a given order, with labels of their own."""

    def __init__(self, source: FaceSource, indices: np.ndarray, labels: np.ndarray, identities: list[str]):
        self.source = source
        self.indices = indices
        self.labels = labels.astype(np.int32)
        self.identities = identities
        self.reads_ahead = source.reads_ahead
        self.has_names = source.has_names

    @property
    def dataset_ids(self) -> np.ndarray:
        """Data set of each image, int32 [N]."""
        return self.source.dataset_ids[self.indices]

    @cached_property
    def landmarks(self) -> np.ndarray | None:  # type: ignore[override]
        """Landmarks of the images that are left, float32 [N, 5, 2], or None."""
        return None if self.source.landmarks is None else self.source.landmarks[self.indices]

    @cached_property
    def extra_labels(self) -> np.ndarray | None:  # type: ignore[override]
        """Further labels of the images that are left, float32 [N, K], or None."""
        return None if self.source.extra_labels is None else self.source.extra_labels[self.indices]

    @property
    def extra_names(self) -> Sequence[str]:  # type: ignore[override]
        """Names of the further labels."""
        return self.source.extra_names

    @property
    def mixes_alignment(self) -> bool:
        """Whether some of the images may be aligned already and others are aligned by landmarks."""
        return getattr(self.source, "mixes_alignment", False)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:  # noqa: D102 - see FaceSource
        return self.source.read(self.indices[np.asarray(indices, np.int64)])

    def crop(self, index: int, size: int) -> np.ndarray:  # noqa: D102 - see FaceSource
        return self.source.crop(int(self.indices[index]), size)

    def crop_of(self, data: bytes, index: int, size: int) -> np.ndarray:  # noqa: D102 - see FaceSource
        return self.source.crop_of(data, int(self.indices[index]), size)

    def verify(self, index: int) -> None:
        """Has the whole source compare the checksum of image ``index``, where it has any; raises ImageError."""
        self.source.verify(int(self.indices[index]))

    def place(self, index: int) -> Place:  # noqa: D102 - see FaceSource
        return self.source.place(int(self.indices[index]))

    def fingerprint(self) -> str:
        """Returns a digest of that of the whole source, and of what is left of it."""
        digest = hashlib.sha256(json.dumps(["part", self.source.fingerprint(), self.identities]).encode())
        digest.update(self.indices.tobytes() + self.labels.tobytes())
        return digest.hexdigest()

    def names(self, index: int) -> str:  # noqa: D102 - see FaceSource
        return self.source.names(int(self.indices[index]))

    def stem(self, index: int) -> str:  # noqa: D102 - see FaceSource
        return self.source.stem(int(self.indices[index]))


class SubsetSource(_Part):
    """Some of the images of a data set; identities of which none is left are dropped, the others keep their order.

    Args:
        source: an open source, a path, or what ``open_source`` takes.
        indices: which images, in this order; None means all.
        identities: names of the identities that are kept; None means all.
        min_images: identities with fewer images, after everything else, are dropped.
        sample: share of the images that is kept, above 0 to 1. Whether an image is kept depends on seed and index
            alone, and a larger share contains a smaller one.
        seed: of that choice.
    Raises:
        InputError: for an index or identity that is not there, a number out of range, or if nothing is left.
    """

    def __init__(
        self,
        source: SourceSpec,
        indices: Sequence[int] | np.ndarray | None = None,
        identities: Iterable[str] | None = None,
        min_images: int = 1,
        sample: float = 1.0,
        seed: int = 0,
    ):
        if min_images < 1 or not 0 < sample <= 1 or seed < 0:
            what = "a subset needs min_images >= 1, sample above 0 and at most 1, and seed >= 0"
            raise InputError(f"{what}, received {min_images}, {sample} and {seed}")
        opened = open_source(source)
        kept = _checked_indices(indices, opened.num_images)
        if identities is not None:
            wanted = _numbers_of(identities, opened.identities)
            kept = kept[np.isin(opened.labels[kept], wanted)]
        if sample < 1:
            kept = kept[uniforms(seed, 0, kept, "subset", 1)[:, 0] < np.float32(sample)]
        counts = np.bincount(opened.labels[kept], minlength=opened.num_identities)
        kept = kept[counts[opened.labels[kept]] >= min_images]
        if not len(kept):
            largest = int(counts.max()) if len(counts) else 0
            what = f"no image is left of {opened.num_images}, the largest identity had {largest}"
            raise InputError(f"{what}; ask for more identities, a larger sample or fewer min_images")
        values, labels = np.unique(opened.labels[kept], return_inverse=True)
        super().__init__(opened, kept, labels, [opened.identities[value] for value in values.tolist()])


class RelabelSource(_Part):
    """A data set whose identities are merged or renamed; images and their order stay.

    Args:
        source: an open source, a path, or what ``open_source`` takes.
        identities: name -> new name, or a text file of lines ``name<TAB>new name``. Names that lead to the same new one
            become one identity; others stay. Identities keep the order of the first of their old names.
    Raises:
        InputError: for a name that is not there, or a malformed file.
    """

    def __init__(self, source: SourceSpec, identities: Mapping[str, str] | PathLike):
        opened = open_source(source)
        table = dict(identities) if isinstance(identities, Mapping) else _read_map(Path(identities))
        _numbers_of(table, opened.identities)
        numbers: dict[str, int] = {}
        renamed = [str(table.get(name, name)) for name in opened.identities]
        places = np.array([numbers.setdefault(name, len(numbers)) for name in renamed], np.int32)
        super().__init__(opened, np.arange(opened.num_images), places[opened.labels], list(numbers))


def _checked_indices(indices: Sequence[int] | np.ndarray | None, count: int) -> np.ndarray:
    if indices is None:
        return np.arange(count, dtype=np.int64)
    chosen = np.asarray(indices)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise InputError(f"indices is a list of whole numbers, received {indices!r:.60}")
    wrong = chosen[(chosen < 0) | (chosen >= count)]
    if wrong.size or len(np.unique(chosen)) != len(chosen):
        seen = f"received {wrong[0]}" if wrong.size else "one stands twice"
        raise InputError(f"indices are numbers of images, 0 to {count - 1}, each once; {seen}")
    return chosen.astype(np.int64)


def _numbers_of(names: Iterable[str], known: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(known)}
    wanted = list(names)
    for name in wanted:
        if name not in numbers:
            hint = did_you_mean(name, known) or f"; the first is {known[0]!r}"
            raise InputError(f"there is no identity {name!r} among {len(known)}{hint}")
    return np.array([numbers[name] for name in wanted], np.int64)


def _read_map(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the table of names {str(path)!r}: {error}") from error
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        old, tab, new = line.partition("\t")
        if not tab or not new.strip() or old in table:
            raise InputError(f"{path}, line {number}: expected a name once, a tab and a new name, found {line[:60]!r}")
        table[old] = new.strip()
    return table

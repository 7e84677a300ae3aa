"""Several data sets as one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from facetrain.data.damage import Damage, Place
from facetrain.data.sources import FaceSource, SourceSpec, open_source
from facetrain.errors import InputError

SEPARATE, BY_NAME = "separate", "by-name"


class JoinedSource(FaceSource):
    """The images of several sources, one source behind the other.

    Args:
        sources: at least one.
        maps: int32 [C] for each source: the identity that each of its identities becomes.
        identities: their names.
    """

    def __init__(self, sources: Sequence[FaceSource], maps: Sequence[np.ndarray], identities: list[str]):
        self.sources = list(sources)
        self.identities = identities
        self.labels = np.concatenate([places[one.labels] for places, one in zip(maps, sources)]).astype(np.int32)
        self.reads_ahead = all(one.reads_ahead for one in sources)
        self.has_names = all(one.has_names for one in sources)
        self._ends = np.cumsum([one.num_images for one in sources])

    @property
    def dataset_ids(self) -> np.ndarray:
        """Number of the source of each image, int32 [N]."""
        return np.repeat(np.arange(len(self.sources), dtype=np.int32), [one.num_images for one in self.sources])

    @cached_property
    def landmarks(self) -> np.ndarray | None:  # type: ignore[override]
        """Landmarks of all sources, float32 [N, 5, 2], NaN for those without; None if no source has any."""
        return _stack([one.landmarks for one in self.sources], self.sources, (5, 2))

    @cached_property
    def extra_labels(self) -> np.ndarray | None:  # type: ignore[override]
        """Further labels, float32 [N, K], NaN for sources without.

        Raises:
            InputError: if sources have different further labels.
        """
        return _stack([one.extra_labels for one in self.sources], self.sources, (len(self.extra_names),))

    @cached_property
    def extra_names(self) -> list[str]:  # type: ignore[override]
        """Names of the further labels, the same in all sources that have some."""
        found = {tuple(one.extra_names) for one in self.sources if len(one.extra_names)}
        if len(found) > 1:
            one, other = sorted(found)[:2]
            raise InputError(f"expected the same further labels in all data sets, received {one} and {other}")
        return list(found.pop()) if found else []

    @property
    def mixes_alignment(self) -> bool:
        """Whether some of the images are aligned already and others are aligned by landmarks."""
        return len({one.landmarks is None for one in self.sources}) > 1

    def origin(self, index: int) -> tuple[int, int]:
        """Returns the number of the source of image ``index``, and the image's number there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, int(index) - (int(self._ends[number - 1]) if number else 0)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:  # noqa: D102 - see FaceSource
        found: list[bytes] = [b""] * len(indices)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for at, index in enumerate(indices):
            number, inner = self.origin(index)
            wanted.setdefault(number, []).append((at, inner))
        for number, places in wanted.items():
            for (at, _), data in zip(places, self.sources[number].read([inner for _, inner in places])):
                found[at] = data
        return found

    def crop(self, index: int, size: int) -> np.ndarray:
        """Returns what the source of image ``index`` returns, uint8 [size, size, 3], RGB."""
        number, inner = self.origin(index)
        return self.sources[number].crop(inner, size)

    def crop_of(self, data: bytes, index: int, size: int) -> np.ndarray:  # noqa: D102 - see FaceSource
        number, inner = self.origin(index)
        return self.sources[number].crop_of(data, inner, size)

    def verify(self, index: int) -> None:
        """Has the source of image ``index`` compare its checksum, if any; raises ImageError if it is wrong."""
        number, inner = self.origin(index)
        self.sources[number].verify(inner)

    def place(self, index: int) -> Place:  # noqa: D102 - see FaceSource
        number, inner = self.origin(index)
        return self.sources[number].place(inner)

    def damage_beside_images(self) -> list[Damage]:  # noqa: D102 - see FaceSource
        return [damage for one in self.sources for damage in one.damage_beside_images()]

    def fingerprint(self) -> str:
        """Returns a digest of those of the sources, and of the identities."""
        digest = hashlib.sha256(json.dumps(["joined", self.identities]).encode())
        digest.update("".join(one.fingerprint() for one in self.sources).encode() + self.labels.tobytes())
        return digest.hexdigest()

    def names(self, index: int) -> str:  # noqa: D102 - see FaceSource
        number, inner = self.origin(index)
        return self.sources[number].names(inner)

    def stem(self, index: int) -> str:  # noqa: D102 - see FaceSource
        number, inner = self.origin(index)
        return self.sources[number].stem(inner)


class ConcatSource(JoinedSource):
    """Several data sets as one.

    Args:
        sources: open sources, paths, or what ``open_source`` takes.
        identities: ``"separate"``: the people of each set are others than those of the rest; where two sets use the
            same name, the number of the set is put behind it. ``"by-name"``: the same name is the same person.
    """

    def __init__(self, sources: Sequence[SourceSpec], identities: str = SEPARATE):
        if identities not in (SEPARATE, BY_NAME):
            raise InputError(f"identities is {SEPARATE!r} or {BY_NAME!r}, received {identities!r}")
        if isinstance(sources, (str, Path, Mapping)) or not sources:
            raise InputError(f"sources is a list of at least one data set, received {sources!r}")
        opened = [open_source(one) for one in sources]
        lists = [one.identities for one in opened]
        named = _told_apart(lists) if identities == SEPARATE else lists
        numbers: dict[str, int] = {}
        maps = [np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32) for names in named]
        super().__init__(opened, maps, list(numbers))


def _stack(parts: list[np.ndarray | None], sources: list[FaceSource], shape: tuple[int, ...]) -> np.ndarray | None:
    if all(part is None for part in parts):
        return None
    return np.concatenate(
        [
            np.full((one.num_images, *shape), np.nan, np.float32) if part is None else part
            for part, one in zip(parts, sources)
        ]
    )


def _told_apart(lists: Sequence[Sequence[str]]) -> list[list[str]]:
    """Puts the number of the set behind names that several sets use."""
    times = Counter(name for names in lists for name in names)
    told = [[f"{n} (set {k})" if times[n] > 1 else n for n in names] for k, names in enumerate(lists, 1)]
    every = [name for names in told for name in names]
    if len(set(every)) != len(every):  # someone is called "x (set 1)" already
        return [[f"{name} (set {k})" for name in names] for k, names in enumerate(lists, 1)]
    return told

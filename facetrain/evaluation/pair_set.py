"""A verification set: encoded face crops, and which two of them show the same person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from facetrain.errors import InputError


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of face crops with the truth about each.

    Attributes:
        images: encoded images (JPEG, PNG, ...), each of an aligned face.
        is_same: bool [P], True where a pair shows one person.
        pairs: int32 [P, 2], indices into ``images``; by default images 0 and 1, 2 and 3, and so on.
        names: what a person calls each image, for messages and reports; numbered by default.
        name: name of the set, e.g. ``"lfw"``.

    Raises:
        InputError: if lengths, types or indices do not fit together.
    """

    images: Sequence[bytes]
    is_same: np.ndarray
    pairs: np.ndarray | None = None
    names: Sequence[str] | None = None
    name: str = "pairs"

    def __post_init__(self) -> None:
        is_same = np.asarray(self.is_same)
        if is_same.ndim != 1 or not np.isin(is_same, (0, 1)).all():
            raise InputError(f"pair set {self.name!r}: is_same must be one list of True and False, one for each pair")
        pairs = np.arange(2 * len(is_same)).reshape(-1, 2) if self.pairs is None else np.asarray(self.pairs)
        if pairs.shape != (len(is_same), 2):
            raise InputError(
                f"pair set {self.name!r}: {len(is_same)} same/different flags need pairs of shape "
                f"[{len(is_same)}, 2], received {list(pairs.shape)}"
            )
        if pairs.size and (pairs.min() < 0 or pairs.max() >= len(self.images)):
            raise InputError(
                f"pair set {self.name!r}: pairs point at images {pairs.min()} to {pairs.max()}, "
                f"but there are {len(self.images)} images"
            )
        names = [f"image {i}" for i in range(len(self.images))] if self.names is None else list(self.names)
        if len(names) != len(self.images):
            raise InputError(f"pair set {self.name!r}: {len(self.images)} images but {len(names)} names")
        for field, value in (
            ("images", list(self.images)),
            ("is_same", is_same.astype(bool)),
            ("pairs", pairs.astype(np.int32)),
            ("names", names),
        ):
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.is_same)

    @property
    def num_same(self) -> int:
        """Number of pairs that show one person."""
        return int(self.is_same.sum())

    def __repr__(self) -> str:
        return f"PairSet({self.name!r}: {len(self)} pairs, {self.num_same} of them same, {len(self.images)} images)"

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(hashlib.sha256(image).digest())
        digest.update(self.pairs.astype("<i4").tobytes())
        digest.update(self.is_same.tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Returns a SHA-256 digest of images, pairs and flags; names do not count."""
        return self._fingerprint

    def deduplicated(self) -> PairSet:
        """Returns the same pairs over distinct images: one that occurs in many pairs is then decoded and embedded once.

        Order and number of pairs stay; images of equal bytes become one, named as its first occurrence.
        """
        first: dict[bytes, int] = {}
        where = np.array([first.setdefault(image, len(first)) for image in self.images], np.int32)
        if len(first) == len(self.images):
            return self
        keep = np.unique(where, return_index=True)[1]
        return replace(
            self,
            images=[self.images[i] for i in keep],
            names=[self.names[i] for i in keep],
            pairs=where[self.pairs],
        )

"""Millions of names in little memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from typing import Any


class NameList(Sequence[str]):
    """A list of names that only grows, kept as one text: 8 bytes more for each name than its letters take.

    Slices are lists of ``str``.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])

    def append(self, name: str) -> None:
        """Adds one name."""
        # File names that are no UTF-8 reach Python as lone surrogates, which have to come back as such.
        self._text += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        return self._name(places) if isinstance(places, int) else [self._name(place) for place in places]

    def as_json(self) -> Iterator[str]:
        """Yields what ``json.dumps`` writes for a list of these names, piece by piece."""
        for place, name in enumerate(self):
            yield (", " if place else "[") + json.dumps(name)
        yield "]" if len(self) else "[]"

    def _name(self, place: int) -> str:
        return self._text[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogatepass")

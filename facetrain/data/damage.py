"""Damage in a data set: where it is, what is wrong, and what a source does to find and mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from facetrain.errors import InputError


class Place(NamedTuple):
    """Where an image stands.

    Attributes:
        file: path of the file.
        key: its key, for files that hold many images.
        offset: byte offset in that file.
    """

    file: str
    key: int | str | None = None
    offset: int | None = None


class Damage(NamedTuple):
    """Something in a data set that cannot be used, and why."""

    place: Place
    reason: str


class Checkable:
    """What ``facetrain data check`` asks of a source; the answers here are right for plain files.

    Attributes:
        repairable: whether ``repair`` can do something.
    """

    repairable: bool = False

    def names(self, index: int) -> str:
        """Returns what a person would call image ``index``."""
        raise NotImplementedError

    def place(self, index: int) -> Place:
        """Returns where image ``index`` stands."""
        return Place(self.names(index))

    def verify(self, index: int) -> None:
        """Checks what reading image ``index`` leaves unchecked, such as a checksum; here there is nothing.

        Raises:
            ImageError: if the image is not as it was written.
        """

    def damage_beside_images(self) -> list[Damage]:
        """Returns what is damaged in the files and belongs to no image of ``labels``; here there is nothing."""
        return []

    def repair(self, bad: Sequence[Place]) -> str:
        """Takes bad images out of the data set where that destroys nothing.

        Args:
            bad: their places.
        Returns:
            a sentence that says what was done.
        Raises:
            InputError: if it cannot be done.
        """
        raise InputError(
            "only the index of a record file can be written again without what is damaged; move or replace the images "
            "yourself, or leave them to on_unreadable=skip"
        )

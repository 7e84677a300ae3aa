"""Where an update stands: in which stretch of one order, in which epoch, at which step of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Stretch(NamedTuple):
    """Updates [first, end) that follow one order, and so have epochs of one length.

    Attributes:
        first, end: the updates, counted from 0 over the whole run.
        first_epoch: the order's epoch with which it begins, above all epochs of the stretches before: no order and no
            augmentation is drawn twice.
        per_epoch: updates in an epoch.
    """

    first: int
    end: int
    first_epoch: int
    per_epoch: int


@dataclass(frozen=True)
class Timeline:
    """The stretches of a run, one behind the other. Each begins a new epoch and counts its steps from there."""

    stretches: tuple[Stretch, ...]

    @classmethod
    def of(cls, lengths: Iterable[tuple[int, int]]) -> Timeline:
        """Lays out stretches, given as (updates, updates in an epoch)."""
        made: list[Stretch] = []
        for updates, per_epoch in lengths:
            first, epoch = 0, 0
            if made:
                before = made[-1]
                first, epoch = (
                    before.end,
                    before.first_epoch + math.ceil((before.end - before.first) / before.per_epoch),
                )
            made.append(Stretch(first, first + updates, epoch, per_epoch))
        return cls(tuple(made))

    def number(self, step: int) -> int:
        """Returns the number of the stretch that the update after ``step`` updates belongs to; the last at the end."""
        return next((i for i, stretch in enumerate(self.stretches) if step < stretch.end), len(self.stretches) - 1)

    def place(self, step: int) -> tuple[int, int]:
        """Returns epoch and step in it of the update after ``step`` updates."""
        stretch = self.stretches[self.number(step)]
        epoch, step_in_epoch = divmod(step - stretch.first, stretch.per_epoch)
        return stretch.first_epoch + epoch, step_in_epoch

    def made(self, step: int) -> tuple[int, int]:
        """Returns how many of ``step`` updates are in the stretch of the last one, and its updates in an epoch."""
        stretch = self.stretches[self.number(max(step - 1, 0))]
        return step - stretch.first, stretch.per_epoch

    def epochs(self, step: int) -> float:
        """Returns how many epochs ``step`` updates are, those of each stretch by its own length."""
        past = [stretch for stretch in self.stretches if stretch.first < step]
        return sum((min(step, stretch.end) - stretch.first) / stretch.per_epoch for stretch in past)

"""What an elastic training keeps in memory, to go on from when a rank is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Memory:
    """The last commit of a run; every rank has one, for each may be the next chief.

    Attributes:
        every: updates between commits.
        hosts_changed: tells, on all ranks alike, whether hosts have come or go.
        step: updates that were made before the commit; None: nothing was committed.
        arrays: all state by name, as of ``read_state``.
        run: as of ``RunState.to_dict``.
    """

    every: int
    hosts_changed: Callable[[], bool]
    step: int | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def keep(self, step: int, arrays: dict[str, np.ndarray], run: dict[str, Any]) -> None:
        """Replaces the commit."""
        self.step, self.arrays, self.run = step, arrays, run

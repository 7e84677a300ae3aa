"""One head in place of another: centres that fit are carried over, and so is what the optimiser knows of the rest."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.models.array_file import VariableArray, assign
from facetrain.models.precision import loss_scaling_variables

logger = logging.getLogger(__name__)


def regrouped(centres: np.ndarray, k: int) -> np.ndarray:
    """Returns the centres of classes for a head with k of them each.

    Centre i of a class goes to place i mod k; where several meet, their mean stands; where k is larger, they repeat.
    So one centre is copied k times, and k become their mean.

    Args:
        centres: [N, D], or [N, j, D].
        k: how many centres a class is to have, 1 or above.
    Returns:
        [N, D] where k is 1, else [N, k, D].
    """
    centres = centres[:, np.newaxis] if centres.ndim == 2 else centres
    before = centres.shape[1]
    if k > before:
        found = centres[:, np.arange(k) % before]
    else:
        found = np.stack([centres[:, place::k].mean(axis=1, dtype=np.float64) for place in range(k)], axis=1)
    found = found.astype(centres.dtype)
    return found[:, 0] if k == 1 else found


class RegroupedCentres:
    """The centres of a head as another number of centres a class; read in blocks when they are needed.

    Args:
        stored: centres [C, D] or [C, j, D] with ``shape`` and ``blocks()``, as a ``HeadFile`` or a ``VariableArray``.
        k: centres of a class that are wanted.
    """

    def __init__(self, stored: Any, k: int):
        self._stored, self._k = stored, k
        self.shape = (stored.shape[0], *((k,) if k > 1 else ()), stored.shape[-1])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first class, centres of some classes) in order."""
        for first, block in self._stored.blocks():
            yield first, regrouped(block, self._k)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([block for _, block in self.blocks()]).astype(dtype or np.float32, copy=False)


def carry_centres(before: tf.keras.layers.Layer, after: tf.keras.layers.Layer) -> bool:
    """Fills the centres of a built head from those of another; returns whether they fit.

    They do where both have ``centres`` of equally many classes and values; otherwise nothing is changed.
    """
    old, new = (getattr(head, "centres", None) for head in (before, after))
    if old is None or new is None or (old.shape[0], old.shape[-1]) != (new.shape[0], new.shape[-1]):
        logger.warning("the head %s does not fit into %s, which begins with new centres", before.name, after.name)
        return False
    assign(new, RegroupedCentres(VariableArray(old), new.shape[1] if len(new.shape) == 3 else 1))
    return True


def carry_optimizer(before: Any, after: Any, left_out: Sequence[tf.Variable]) -> None:
    """Gives a built optimiser the variables of another of its kind, but for the slots of some model variables.

    Args:
        before: the optimiser until now.
        after: built for the same model variables, those in ``left_out`` replaced by others.
        left_out: model variables whose slots keep their first values: those of the head, old and new.
    """
    without = {variable.name.partition(":")[0] for variable in left_out}
    kept = [[v for v in optimizer_variables(one) if not is_slot_of(v, without)] for one in (before, after)]
    if [v.name for v in kept[0]] != [v.name for v in kept[1]]:
        raise ValueError("expected the same optimiser for the same embedding model, received others")
    for old, new in zip(*kept):
        new.assign(old.read_value())


def is_slot_of(variable: tf.Variable, names: set[str]) -> bool:
    """Whether an optimiser's variable is a slot of one of these; Keras puts the slot's name first, Addons last."""
    name = variable.name.partition(":")[0]
    return name.partition("/")[2] in names or name.rpartition("/")[0] in names


def optimizer_variables(optimizer: Any) -> list[tf.Variable]:
    """Returns all variables of a Keras optimiser, with those of its loss scaling where it has any."""
    variables = optimizer.variables
    return [*(variables() if callable(variables) else variables), *loss_scaling_variables(optimizer)]

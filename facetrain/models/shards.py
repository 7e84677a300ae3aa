"""Variables of which each process has some rows: reading, writing and describing the whole of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.layers.sharded import shard_bounds
from facetrain.models.array_file import Block, VariableArray, assign, row_ranges
from facetrain.models.head_change import is_slot_of, optimizer_variables


class ShardArray:
    """The whole of a variable that ranks share, put together from all of them whenever it is read.

    All ranks must read it at once and alike, whatever they do with what they read.

    Args:
        variable: [n, ...], the rows of this rank; its attribute ``shard`` says which.
    """

    def __init__(self, variable: tf.Variable):
        self._variable, self._shard = variable, variable.shard
        self.shape = whole_shape(variable)
        self.dtype = np.dtype(variable.dtype.as_numpy_dtype)
        self.nbytes = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([block for _, block in self.blocks()]).astype(dtype or self.dtype, copy=False)

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Yields (first row, rows) for the rows from ``first`` to ``stop``, in order; each comes from its rank."""
        shard, stop = self._shard, self.shape[0] if stop is None else stop
        for rank in range(shard.ranks.world):
            low, high = shard_bounds(shard.rows, rank, shard.ranks.world)
            for start, end in row_ranges(max(first, low), min(stop, high), self.shape, self.dtype):
                if rank == shard.ranks.rank:
                    block = tf.gather(self._variable, tf.range(start - low, end - low)).numpy()
                else:
                    block = np.zeros((end - start, *self.shape[1:]), self.dtype)
                yield start, shard.ranks.from_rank(block, rank)


class _Rows:
    """Some rows of a stored array as an array of their own, read in blocks."""

    def __init__(self, stored: Any, first: int, stop: int):
        self._stored, self._first, self._stop = stored, first, stop
        self.shape = (stop - first, *stored.shape[1:])

    def blocks(self) -> Iterator[Block]:
        for start, block in self._stored.blocks(self._first, self._stop):
            yield start - self._first, block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([block for _, block in self.blocks()]).astype(dtype or self._stored.dtype, copy=False)


def whole_shape(variable: tf.Variable) -> tuple[int, ...]:
    """Returns the shape of a variable, or of the whole that it is a shard of."""
    own = tuple(variable.shape)
    return (variable.shard.rows, *own[1:]) if hasattr(variable, "shard") else own


def array_of(variable: tf.Variable) -> VariableArray | ShardArray:
    """Returns the value of a variable, or of the whole that it is a shard of, read when it is needed."""
    return ShardArray(variable) if hasattr(variable, "shard") else VariableArray(variable)


def assign_whole(variable: tf.Variable, value: Any) -> None:
    """Assigns an array; to a shard its rows of it.

    Args:
        variable: to change.
        value: an array of ``whole_shape(variable)``, or one with ``blocks(first, stop)``.
    """
    if hasattr(variable, "shard"):
        first, stop = variable.shard.first, variable.shard.stop
        value = _Rows(value, first, stop) if hasattr(value, "blocks") else np.asarray(value)[first:stop]
    assign(variable, value)


def take_part(variables: Iterable[tf.Variable]) -> None:
    """Gives another rank, which reads ``array_of`` these variables in this order, the rows that are here."""
    for variable in variables:
        if hasattr(variable, "shard"):
            for _ in ShardArray(variable).blocks():
                pass


def mark_slots(optimizer: Any, variables: Iterable[tf.Variable]) -> None:
    """Gives a built optimiser's slots of shards the attribute ``shard`` of their variable."""
    for variable in variables:
        if hasattr(variable, "shard"):
            name = variable.name.partition(":")[0]
            for slot in optimizer_variables(optimizer):
                if is_slot_of(slot, {name}) and slot.shape == variable.shape:
                    slot.shard = variable.shard


def refuse_impossible_sharding(head: Any, optimizer: Any, gather_labels: Any) -> None:
    """Refuses what would let ranks go apart.

    Raises:
        InputError: if the optimiser clips by a norm, which each rank would find another one.
        ValueError: if nothing joins the labels of the ranks.
    """
    if not is_sharded(head):
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for key in ("clipnorm", "global_clipnorm"):
        if getattr(inner, key, None) is not None:
            raise InputError(
                f"{key} measures whole gradients, of which a rank with a sharded head has a part: leave clipping off, "
                "or use the head 'partial'"
            )
    if gather_labels is None:
        raise ValueError("a sharded head needs the labels of all ranks: compile with gather_labels")


def refuse_loss(head: Any, loss: Any) -> None:
    """Refuses a loss that a sharded head cannot compute.

    Raises:
        InputError: if it looks at all classes, or at the embeddings of a batch, at once.
    """
    if is_sharded(head) and not getattr(loss, "works_on_shards", False):
        raise InputError(
            f"the loss {getattr(loss, 'name', loss)!r} needs more than the cosine with the own class and, one by one, "
            "those with others, and a rank with a sharded head has only its own classes: use the head 'partial'"
        )


def is_sharded(head: Any) -> bool:
    """Whether a head has only some of the classes, and other ranks the others."""
    ranks = getattr(head, "ranks", None)
    return ranks is not None and ranks.world > 1


def is_divisible(head: Any) -> bool:
    """Whether a head has only some of the classes as soon as there are several ranks."""
    return getattr(head, "ranks", None) is not None

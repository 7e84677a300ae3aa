"""Changing one entry of each row of a large matrix, without a copy where that is possible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import tensorflow as tf

_IN_PLACE: ContextVar[bool] = ContextVar("in_place", default=False)


@contextmanager
def in_place_where(possible: bool) -> Iterator[None]:
    """Losses that are traced inside change their matrices in place, if ``possible``.

    On processors TensorFlow's ``tensor_scatter_nd_*`` copies the matrix each time; the operation that does not has no
    XLA form. So whoever knows that nothing is compiled (``jit_compile=False``) says so here.
    """
    token = _IN_PLACE.set(possible)
    try:
        yield
    finally:
        _IN_PLACE.reset(token)


def may_change_in_place() -> bool:
    """Whether this is inside ``in_place_where(True)``."""
    return _IN_PLACE.get()


def add_at(matrix: tf.Tensor, positions: tf.Tensor, values: tf.Tensor, in_place: bool) -> tf.Tensor:
    """Returns ``matrix`` [B, C] with ``values`` [B] added at ``positions`` [B, 2].

    In place only if nothing else needs the matrix; that is TensorFlow's to find out, and it copies otherwise.
    """
    if in_place:
        return tf.raw_ops.ScatterNdNonAliasingAdd(input=matrix, indices=positions, updates=values)
    return tf.tensor_scatter_nd_add(matrix, positions, values)

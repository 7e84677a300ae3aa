"""Whether TensorFlow operations may be used that XLA has no form of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COMPILED: ContextVar[bool] = ContextVar("may_be_compiled", default=True)


@contextmanager
def not_compiled(certainly: bool = True) -> Iterator[None]:
    """What is traced inside may use operations that XLA has no form of, if it is certain that nothing is compiled.

    Layers and losses cannot find out whether the graph they are in will be compiled. Whoever compiles it knows.
    """
    token = _COMPILED.set(not certainly)
    try:
        yield
    finally:
        _COMPILED.reset(token)


def may_be_compiled() -> bool:
    """Whether this is outside ``not_compiled``."""
    return _COMPILED.get()

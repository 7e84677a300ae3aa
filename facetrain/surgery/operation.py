"""What makes a surgery of a function that rebuilds a model: it proves what it promises, and can be listened to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Union

from tensorflow import keras

from facetrain.surgery.proof import prove
from facetrain.surgery.rebuild import Rebuilt

Promise = Union[bool, Callable[..., bool]]
Surgery = Callable[..., keras.Model]


class Operation(NamedTuple):
    """A surgery that took place.

    Attributes:
        name: of the surgery.
        exact: whether equal outputs were promised, and proven.
        rebuilt: source and result of each of its rounds.
    """

    name: str
    exact: bool
    rebuilt: list[Rebuilt]


_LISTENER: ContextVar[list[Operation] | None] = ContextVar("listener", default=None)


def surgery(exact: Promise = True, repeat: bool = False) -> Callable[[Callable[..., Rebuilt]], Surgery]:
    """Makes a function from model to ``Rebuilt`` one from model to model that proves what it promises.

    Args:
        exact: whether outputs stay the same; or a function of the surgery's arguments, the model first, that tells.
        repeat: whether it is done again until nothing is left to change.
    """

    def decorate(function: Callable[..., Rebuilt]) -> Surgery:
        @functools.wraps(function)
        def operate(model: keras.Model, *args: Any, **arguments: Any) -> keras.Model:
            promised = exact(**_bound(function, model, args, arguments)) if callable(exact) else exact

            def once(source: keras.Model) -> Rebuilt:
                return function(source, *args, **arguments)

            rounds = [once(model)]
            while True:
                if promised:
                    prove(rounds[-1], function.__name__, once)
                if not repeat or not rounds[-1].edits:
                    break
                following = once(rounds[-1].model)
                if not following.edits:
                    break
                rounds.append(following)
            listener = _LISTENER.get()
            if listener is not None:
                listener.append(Operation(function.__name__, promised, rounds))
            return rounds[-1].model

        return operate

    return decorate


@contextmanager
def listening() -> Iterator[list[Operation]]:
    """Yields a list to which the surgeries that are done inside are added."""
    operations: list[Operation] = []
    token = _LISTENER.set(operations)
    try:
        yield operations
    finally:
        _LISTENER.reset(token)


def _bound(function: Callable[..., Any], model: keras.Model, args: Any, arguments: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(model, *args, **arguments)
    bound.apply_defaults()
    return dict(bound.arguments)

"""Name -> factory tables, one per family of components."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from facetrain.errors import InputError, did_you_mean

Factory = Callable[..., Any]


class Entry(NamedTuple):
    """One line of a registry: its name, what it makes, and one sentence about it."""

    name: str
    target: str | Factory
    description: str


class Registry:
    """Maps names to factories, each with a one-line description.

    A factory may be given as ``"package.module:attribute"``; it is imported when it is first used, so that a table
    can be listed and names can be checked without importing TensorFlow.

    Args:
        kind: what the entries are, in the singular, for messages: ``"loss"``, ``"backbone"``.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, target: str | Factory, description: str) -> None:
        """Adds one entry.

        Raises:
            ValueError: if the name is taken or the description is empty.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        if not description:
            raise ValueError(f"{self.kind} {name!r} needs a one-line description")
        self._entries[name] = Entry(name, target, description)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def names(self, pattern: str = "*") -> list[str]:
        """Returns the names that match a shell pattern, in the order of the table."""
        return [name for name in self._entries if fnmatch(name, pattern)]

    def check(self, name: str) -> str:
        """Returns ``name`` if it is known; raises InputError with the nearest spellings otherwise."""
        if name not in self._entries:
            hint = did_you_mean(name, self._entries) or f"; known: {', '.join(sorted(self._entries))}"
            raise InputError(f"unknown {self.kind} {name!r}{hint}")
        return name

    def get(self, name: str) -> Factory:
        """Returns the factory called ``name``, importing it if needed."""
        target = self._entries[self.check(name)].target
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def build(self, spec: Any, **defaults: Any) -> Any:
        """Builds an entry from a name, from ``{"name": ..., **arguments}``, or passes an instance through.

        Args:
            spec: a name, a mapping with a ``name``, or an already built object, which is returned as it is.
            **defaults: arguments that ``spec`` may override.
        Raises:
            InputError: for an unknown name, an unknown argument or a value that the factory refuses.
        """
        if not isinstance(spec, (str, Mapping)):
            return spec
        arguments = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in arguments:
            raise InputError(f"{self.kind} needs a 'name', received {dict(spec)!r}")
        name = arguments.pop("name")
        factory = self.get(name)
        self._check_arguments(name, factory, arguments)
        try:
            return factory(**{**defaults, **arguments})
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from error

    def _check_arguments(self, name: str, factory: Factory, arguments: Mapping[str, Any]) -> None:
        parameters = inspect.signature(factory).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for key in arguments:
            if key not in parameters:
                hint = did_you_mean(key, parameters) or f"; it takes {', '.join(parameters) or 'none'}"
                raise InputError(f"{self.kind} {name!r} has no argument {key!r}{hint}")

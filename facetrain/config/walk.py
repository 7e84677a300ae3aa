"""Questions about the schema: what stands at a dotted path, and which keys are known there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from facetrain.config.fields import SpecMarker
from facetrain.config.schema import Config
from facetrain.config.section import Section
from facetrain.errors import did_you_mean

Path = tuple[Union[str, int], ...]


def dotted(path: Path) -> str:
    """Returns a path as users write it: ``evaluate.0.path``."""
    return ".".join(str(part) for part in path)


def is_spec(path: Path) -> bool:
    """Tells whether a component (name and arguments) stands at ``path``."""
    annotation = _annotation(path)
    return get_origin(annotation) is Annotated and any(isinstance(m, SpecMarker) for m in get_args(annotation)[1:])


def is_list(path: Path) -> bool:
    """Tells whether a list stands at ``path``."""
    return get_origin(_annotation(path)) is list


def nearest_key(path: Path) -> str:
    """Returns a hint for an unknown key, such as ``"; did you mean 'epochs'?"``; empty where nothing is near."""
    parent, key = path[:-1], str(path[-1])
    section = _annotation(parent)
    siblings = list(_hints(section)) if _is_section(section) else []
    hint = did_you_mean(key, siblings)
    if hint:
        return hint
    elsewhere = [dotted(known) for known in _all_keys(Config, ()) if known[-1] == key]
    if elsewhere:
        return f"; did you mean {' or '.join(map(repr, elsewhere[:3]))}?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _annotation(path: Path) -> Any:
    """Returns the type that the schema gives to ``path``, or None where it says nothing."""
    annotation: Any = Config
    for part in path:
        if _is_section(annotation):
            annotation = _strip_optional(_hints(annotation).get(str(part)))
        elif get_origin(annotation) is list and str(part).isdigit():
            annotation = _strip_optional(get_args(annotation)[0])
        else:
            return None
    return annotation


@cache
def _hints(section: type[Section]) -> dict[str, Any]:
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in section.model_fields}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _strip_optional(annotation: Any | None) -> Any:
    if get_origin(annotation) is Union:
        kept = [arm for arm in get_args(annotation) if arm is not type(None)]
        return kept[0] if len(kept) == 1 else annotation
    return annotation


def _all_keys(section: type[Section], path: Path) -> Iterator[Path]:
    for name, annotation in _hints(section).items():
        yield (*path, name)
        inner = _strip_optional(annotation)
        if _is_section(inner):
            yield from _all_keys(inner, (*path, name))

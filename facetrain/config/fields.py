"""Field types that the sections of a config share: component specs and durations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, WithJsonSchema

from facetrain.schedules.durations import UNITS, resolve_duration


class SpecMarker:
    """Marks a field as a component: a name, or a mapping of a name and the component's own arguments."""


def normalise_spec(value: Any) -> Any:
    """Returns ``{"name": value}`` for a bare name and anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


def merge_spec(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Lays the arguments of ``patch`` over ``base``; a patch that names another component replaces it whole.

    The arguments of one component mean nothing to another: ArcFace's ``margin=0.5`` must not become CosFace's.
    """
    if "name" in patch and "name" in base and patch["name"] != base["name"]:
        return dict(patch)
    return {**base, **patch}


def _check_patch(value: Any) -> dict[str, Any]:
    value = normalise_spec(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a name or a mapping of arguments, received {value!r}")
    name = value.get("name", "unnamed")
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected text as the name of a component, received {name!r}")
    return dict(value)


def _check_spec(value: Any) -> dict[str, Any]:
    spec = _check_patch(value)
    if "name" not in spec:
        raise ValueError(f"expected a 'name' beside the arguments {sorted(spec)}, received none")
    return spec


def _check_duration(value: Any) -> Any:
    # Whether it can be converted depends on the data; that it is a duration at all is known here.
    if resolve_duration(value, steps_per_epoch=1, batch_size=1) < 1:
        raise ValueError(f"expected a duration above zero, received {value!r}")
    return value


def _check_threads(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"expected 'auto' or a whole number of at least 1, received {value!r}")
    return value


_NAME_OR_ARGUMENTS = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    ]
}
_PATCH = {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"name": {"type": "string"}}}]}
_DURATION = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "examples": ["2 epochs", "500 steps", "10000 examples"]},
        {
            "type": "object",
            "properties": {unit: {"type": "number", "exclusiveMinimum": 0} for unit in UNITS},
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        },
    ]
}

# The validators return what the field holds, so the inner type accepts it without looking again.
Spec = Annotated[dict[str, Any], BeforeValidator(_check_spec), WithJsonSchema(_NAME_OR_ARGUMENTS), SpecMarker()]
SpecPatch = Annotated[dict[str, Any], BeforeValidator(_check_patch), WithJsonSchema(_PATCH), SpecMarker()]
Threads = Annotated[
    Union[int, str],
    BeforeValidator(_check_threads),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]
Duration = Annotated[
    Union[int, float, str, dict[str, Any]],
    BeforeValidator(_check_duration),
    WithJsonSchema(_DURATION),
]

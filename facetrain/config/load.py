"""Loading, writing and identifying configurations."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from facetrain.config.documents import Document, read_document, to_yaml
from facetrain.config.merge import merge, origin_of, parse_overrides
from facetrain.config.schema import DEFAULT_COMPONENTS, Config
from facetrain.config.walk import dotted, nearest_key
from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike

# Where a run writes and how much it says changes nothing about what it computes.
_NOT_IDENTITY: dict[str, Any] = {
    "name": True,
    "runtime": True,
    "data": {"cache", "cache_dir"},
    "train": {"checkpoint_every", "keep_checkpoints", "log_every", "tensorboard", "runs_dir"},
}
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', beginning with a letter or digit",
    "finite_number": "a finite number",
}


def load_config(path: PathLike, overrides: Iterable[str] = ()) -> Config:
    """Reads a config file, the bases it names, and overrides, in this order, each over what came before.

    A file may name another with ``base: other.yaml`` (relative to itself). Other relative paths stay relative to the
    working directory. A run without a name is called like the file.

    Args:
        path: YAML file.
        overrides: assignments ``"train.epochs=3"``, values in YAML, list items by number.
    Raises:
        InputError: naming key, file and line (or override), what was expected and what was received.
    """
    path = Path(path)
    layers = [*_read_with_bases(path, ()), parse_overrides(overrides)]
    values: dict[str, Any] = DEFAULT_COMPONENTS
    for layer in layers:
        values = merge(values, layer.values, by_index=layer is layers[-1])
    values.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "run")
    return _validate(values, layers)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Returns the config that a nested mapping describes, with the checks of ``load_config``."""
    return _validate(merge(DEFAULT_COMPONENTS, values), [])


def dump_yaml(config: Config) -> str:
    """Returns a config as YAML with every value spelled out; ``load_config`` reads it back equal."""
    return to_yaml(config.model_dump(mode="json"))


def config_fingerprint(config: Config) -> str:
    """Returns 16 hexadecimal digits that change with everything that influences the result of training."""
    values = config.model_dump(mode="json", exclude=_NOT_IDENTITY)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of config files, for editors that complete and check YAML."""
    schema = Config.model_json_schema()
    base = {"type": "string", "description": "Config file below this one, relative to this file.", "title": "Base"}
    schema["properties"] = {"base": base, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "facetrain config"}


def _read_with_bases(path: Path, above: tuple[Path, ...]) -> list[Document]:
    """Returns the chain of files, the deepest base first."""
    real = path.resolve()
    if real in above:
        chain = " -> ".join(f"'{p.name}'" for p in (*above, real))
        raise InputError(f"config files are each other's base: {chain}: take one 'base:' out")
    document = read_document(path)
    base = document.values.pop("base", None)
    if base is None:
        return [document]
    if not isinstance(base, str):
        raise InputError(f"'base' ({document.origins['base',]}) should be the path of a config file, received {base!r}")
    target = path.parent / base
    if not target.is_file():
        raise InputError(f"base '{base}' ({document.origins['base',]}) does not exist: looked for '{target}'")
    return [*_read_with_bases(target, (*above, real)), document]


def _validate(values: dict[str, Any], layers: Sequence[Document]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
        raise InputError(_sentence(problems[0], layers) + more) from error


def _sentence(problem: Mapping[str, Any], layers: Sequence[Document]) -> str:
    path, kind, context = problem["loc"], problem["type"], problem.get("ctx", {})
    where = origin_of(path, layers)
    key = f"'{dotted(path)}'" + (f" ({where})" if where else "")
    if kind == "extra_forbidden":
        return f"unknown config key {key}{nearest_key(path)}"
    if kind == "missing":
        return f"{key} is missing: give it a value"
    if kind == "value_error":
        return f"{key}: {context['error']}" if path else str(context["error"])
    hint = ""
    expected = problem["msg"].replace("Input should be ", "")
    if kind == "literal_error":
        hint = did_you_mean(problem["input"], re.findall(r"'([^']*)'", expected))
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**context)
    return f"{key} should be {expected}, received {_short(problem['input'])}{hint}"


def _short(value: Any, limit: int = 60) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."

"""Layers of a configuration: a file over its base, command-line overrides over both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from facetrain.config.documents import Document, parse_yaml
from facetrain.config.fields import merge_spec, normalise_spec
from facetrain.config.walk import Path, dotted, is_list, is_spec
from facetrain.errors import InputError


def merge(base: Any, patch: Any, path: Path = (), by_index: bool = False) -> Any:
    """Lays ``patch`` over ``base`` and returns the result; neither is changed.

    Mappings are merged key by key, lists and plain values are replaced, and a component that gets another name loses
    the arguments of the old one.

    Args:
        base: the value below, None if there is none.
        patch: the value above.
        path: where both stand in the configuration.
        by_index: whether a mapping of numbers changes items of a list, as ``--set evaluate.0.path=...`` does.
    """
    if is_spec(path):
        base, patch = normalise_spec(base), normalise_spec(patch)
    if not isinstance(patch, Mapping):
        return patch
    if by_index and patch and all(key.isdigit() for key in patch) and (isinstance(base, list) or is_list(path)):
        return _merge_items(base if isinstance(base, list) else [], patch, path)
    below: Mapping[str, Any] = base if isinstance(base, Mapping) else {}
    if is_spec(path):
        below = {key: value for key, value in below.items() if key in merge_spec(below, patch)}
    merged = dict(below)
    for key, value in patch.items():
        merged[key] = merge(below.get(key), value, (*path, key), by_index)
    return merged


def _merge_items(base: Sequence[Any], patch: Mapping[str, Any], path: Path) -> list[Any]:
    merged = list(base)
    for key in sorted(patch, key=int):
        index = int(key)
        if index > len(merged):
            raise InputError(
                f"--set {dotted((*path, key))}: '{dotted(path)}' has {len(merged)} item(s), counted from 0: "
                f"the next one to add is {dotted((*path, len(merged)))}"
            )
        below = merged[index] if index < len(merged) else None
        merged[index : index + 1] = [merge(below, patch[key], (*path, index), by_index=True)]
    return merged


def parse_overrides(assignments: Iterable[str]) -> Document:
    """Turns ``["a.b=c", ...]`` into one tree that ``merge(..., by_index=True)`` lays over the files.

    The assignments are first laid over each other, later over earlier, so that ``loss.margin=0.3 loss=cosface`` means
    the same in both orders.

    Raises:
        InputError: for an assignment without ``=``, without a key, or with a value that is no YAML.
    """
    tree: dict[str, Any] = {}
    origins: dict[Path, str] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        parts = tuple(key.strip().split("."))
        if not equals or not all(parts):
            raise InputError(f"--set takes key=value with a dotted key such as train.epochs=3, received {assignment!r}")
        where = f"in --set {assignment}"
        path: Path = tuple(int(part) if part.isdigit() else part for part in parts)
        value = parse_yaml(text, where, path, with_lines=False)
        origins.update({path[:length]: where for length in range(1, len(path) + 1)})
        origins.update(value.origins)
        tree = _put(tree, parts, value.values, (), where)
    return Document(tree, origins)


def _put(node: Any, parts: Sequence[str], value: Any, path: Path, where: str) -> Any:
    if not parts:
        return merge(node, value, path, by_index=True) if isinstance(value, Mapping) or is_spec(path) else value
    if is_spec(path):
        node = normalise_spec(node)
    key = parts[0]
    if isinstance(node, list):
        if not key.isdigit() or int(key) > len(node):
            raise InputError(f"{where}: '{dotted(path)}' was set to a list of {len(node)} items, which has no {key!r}")
        below = node[int(key)] if int(key) < len(node) else None
        changed = list(node)
        changed[int(key) : int(key) + 1] = [_put(below, parts[1:], value, (*path, key), where)]
        return changed
    if node is not None and not isinstance(node, Mapping):
        raise InputError(f"{where}: '{dotted(path)}' was set to {node!r}, which has no {key!r}")
    return {**(node or {}), key: _put((node or {}).get(key), parts[1:], value, (*path, key), where)}


def origin_of(path: Path, layers: Sequence[Document]) -> str | None:
    """Returns where the value at ``path`` was written, or, if it was not, where the section around it was."""
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if path[:length] in layer.origins:
                return layer.origins[path[:length]]
    return None

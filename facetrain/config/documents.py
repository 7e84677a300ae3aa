"""YAML as this project reads and writes it: plain data only, every value with the line it came from."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from facetrain.config.walk import Path, dotted
from facetrain.errors import InputError

_CONTAINER_TAGS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
_SCALARS = (str, int, float, bool, type(None))
# YAML 1.1 reads 5e-4 as text, 010 as 8, 1:30 as 90, no as false and 2024-01-01 as a date. These are the rules of
# YAML 1.2, which are what people expect.
_RULES = (
    ("tag:yaml.org,2002:null", re.compile(r"~|null|Null|NULL|"), "~nN\0"),
    ("tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+"), "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", re.compile(r"<<"), "<"),
)


class Document(NamedTuple):
    """A tree of plain values and, for each path in it, where that value was written."""

    values: Any
    origins: dict[Path, str]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or our rules would read as something else."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # In other styles PyYAML takes these for line breaks that may be folded.
    style = '"' if set(text) & set("\r\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _read_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 10)


for _tag, _pattern, _first in _RULES:
    # The resolver matches a prefix only, hence the end of text.
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_tag, _whole, ["" if c == "\0" else c for c in _first])
    if not _tag.endswith((":null", ":merge")):
        _Dumper.add_implicit_resolver(_tag, _whole, list(_first))
_Dumper.add_representer(str, _write_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _read_int)


def read_document(path: FilePath) -> Document:
    """Reads a YAML file whose top level is a mapping.

    Raises:
        InputError: if the file cannot be read, is no YAML, repeats a key, or holds anything but plain values.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"config file '{path}' does not exist: check the path (now in {FilePath.cwd()})") from None
    except OSError as error:
        raise InputError(f"config file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"config file '{path}' is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    document = parse_yaml(text, str(path))
    if document.values is None:
        return Document({}, {})
    if not isinstance(document.values, dict):
        kind = type(document.values).__name__
        raise InputError(f"config file '{path}' should be a mapping of keys to values, received a {kind}")
    return document


def parse_yaml(text: str, where: str, path: Path = (), with_lines: bool = True) -> Document:
    """Parses one YAML document.

    Args:
        text: the document.
        where: what to call it in messages: a file name, or the override it came from.
        path: dotted path at which its values belong.
        with_lines: whether messages add the line to ``where``.
    """
    reader = _Reader(_Loader(text), where, with_lines)
    try:
        node = reader.loader.get_single_node()
        return Document(None if node is None else reader.value(node, path, ()), reader.origins)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{reader.place(getattr(error, 'problem_mark', None))}: not valid YAML: {problem}") from error


class _Reader:
    """Turns YAML nodes into plain values and notes where each came from."""

    def __init__(self, loader: _Loader, where: str, with_lines: bool):
        self.loader = loader
        self.where = where
        self.with_lines = with_lines
        self.origins: dict[Path, str] = {}
        self.flat: list[yaml.Node] = []

    def place(self, mark: Any) -> str:
        return f"{self.where}:{mark.line + 1}" if self.with_lines and mark is not None else self.where

    def value(self, node: yaml.Node, path: Path, above: tuple[yaml.Node, ...]) -> Any:
        self.origins[path] = place = self.place(node.start_mark)
        if node in above:
            raise InputError(f"{place}: the anchor of '{dotted(path)}' contains itself: write the value out")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _CONTAINER_TAGS:
            raise InputError(f"{place}: '{dotted(path)}' should be a plain {node.id}, received the tag {node.tag!r}")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i), (*above, node)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, (*above, node))
        value = self.loader.construct_object(node)
        if not isinstance(value, _SCALARS):
            kind = type(value).__name__
            raise InputError(
                f"{place}: '{dotted(path)}' should be text, a number, true, false or null, received a {kind}"
            )
        return value

    def mapping(self, node: yaml.MappingNode, path: Path, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        # An anchored mapping is met once for every alias; the second time its merge keys are already taken in.
        if node not in self.flat:
            self.flat.append(node)
            self._check_keys(node, path)
            self.loader.flatten_mapping(node)
        return {key_node.value: self.value(child, (*path, key_node.value), above) for key_node, child in node.value}

    def _check_keys(self, node: yaml.MappingNode, path: Path) -> None:
        first_seen: dict[str, int] = {}
        for key_node, _ in node.value:
            place = self.place(key_node.start_mark)
            if key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise InputError(f"{place}: keys are text, received {self._quote(key_node)}: write it in quotes")
            key = key_node.value
            if key in first_seen:
                name = dotted((*path, key))
                raise InputError(f"{place}: '{name}' is given twice, first in line {first_seen[key]}: keep one of them")
            first_seen[key] = key_node.start_mark.line + 1

    @staticmethod
    def _quote(node: yaml.Node) -> str:
        return node.value if isinstance(node, yaml.ScalarNode) else f"a {node.id}"


def to_yaml(values: Any) -> str:
    """Writes plain values as YAML that ``parse_yaml`` reads back equal."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110)

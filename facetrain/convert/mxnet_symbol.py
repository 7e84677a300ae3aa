"""Reading MXNet's ``-symbol.json``: a graph as plain JSON."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

from facetrain.errors import InputError
from facetrain.files import PathLike

_MAX_BYTES = 64 << 20
_VARIABLE = "null"
_MAX_PAIR = 64  # for strides and padding


class Node(NamedTuple):
    """One operation or variable of a graph.

    Attributes:
        op: name of the operation; ``null`` for a variable.
        name: its own name.
        attrs: arguments as text.
        inputs: positions of the nodes that it takes the first output of, in ``Symbol.nodes``.
    """

    op: str
    name: str
    attrs: dict[str, str]
    inputs: tuple[int, ...]

    @property
    def is_variable(self) -> bool:
        """Whether it is an input or a weight."""
        return self.op == _VARIABLE

    def get(self, name: str, default: Any) -> Any:
        """Returns an argument, read as a Python literal (numbers, booleans, tuples)."""
        if name not in self.attrs:
            return default
        try:
            return ast.literal_eval(self.attrs[name])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return self.attrs[name]

    def pair(self, name: str, default: int) -> tuple[int, int]:
        """Returns an argument of two sizes."""
        value = self.get(name, ()) or (default, default)
        fits = (
            isinstance(value, tuple) and len(value) == 2 and all(type(v) is int and 0 <= v <= _MAX_PAIR for v in value)
        )
        if not fits:
            raise InputError(f"node {self.name!r}: expected two sizes as {name}, received {self.attrs[name]!r}")
        return value


class Symbol(NamedTuple):
    """The part of a graph that computes the embedding.

    Attributes:
        nodes: in an order in which each comes after its inputs; the last is the embedding.
    """

    nodes: tuple[Node, ...]

    def names(self) -> dict[str, Node]:
        """Returns the nodes by name."""
        return {node.name: node for node in self.nodes}

    def variables(self) -> list[str]:
        """Returns the names of inputs and weights."""
        return [node.name for node in self.nodes if node.is_variable]


def read_mxnet_symbol(path: PathLike, output: str = "fc1") -> Symbol:
    """Reads a graph and cuts it behind the embedding.

    Args:
        path: the ``-symbol.json`` file.
        output: name of the embedding's node; the first output of the graph where there is no such node.
    Raises:
        InputError: if the file is missing, no JSON, or no graph of MXNet.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a graph of MXNet (model-symbol.json), found none")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: expected a graph of MXNet of at most {_MAX_BYTES >> 20} MiB")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a graph of MXNet as JSON, but it cannot be read ({error})") from error
    entries = values.get("nodes") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"{path}: expected a graph of MXNet with 'nodes', found none; give the -symbol.json file first"
        )
    nodes = [_node(entry, position, path) for position, entry in enumerate(entries)]
    last = next((position for position, node in enumerate(nodes) if node.name == output), None)
    if last is None:
        last = _first_head(values.get("heads"), len(nodes), path)
    return _ancestors(nodes, last)


def _node(entry: Any, position: int, path: Path) -> Node:
    try:
        attrs = entry.get("attrs") or entry.get("attr") or entry.get("param") or {}
        inputs = tuple(source[0] for source in entry["inputs"])
        node = Node(str(entry["op"]), str(entry["name"]), {str(k): str(v) for k, v in attrs.items()}, inputs)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: node {position} is not described as MXNet does it ({error!r})") from error
    if any(type(source) is not int or not 0 <= source < position for source in inputs):
        raise InputError(f"{path}: node {node.name!r} takes {list(inputs)}, which do not all come before it")
    return node


def _first_head(heads: Any, count: int, path: Path) -> int:
    head = heads[0][0] if isinstance(heads, list) and heads and isinstance(heads[0], list) and heads[0] else None
    if type(head) is not int or not 0 <= head < count:
        raise InputError(f"{path}: expected a graph with an output, found none")
    return head


def _ancestors(nodes: list[Node], last: int) -> Symbol:
    wanted, pending = {last}, [last]
    while pending:
        new = [source for source in nodes[pending.pop()].inputs if source not in wanted]
        wanted.update(new)
        pending += new
    order = sorted(wanted)
    place = {old: new for new, old in enumerate(order)}
    return Symbol(tuple(nodes[old]._replace(inputs=tuple(place[i] for i in nodes[old].inputs)) for old in order))

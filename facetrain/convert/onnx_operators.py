"""The table of ONNX operators: which function makes layers of a node."""

from __future__ import annotations

from collections.abc import Iterable

from facetrain.convert.onnx_activations import ACTIVATIONS
from facetrain.convert.onnx_affine import ARITHMETIC
from facetrain.convert.onnx_constants import CONSTANTS
from facetrain.convert.onnx_convolutions import CONVOLUTIONS
from facetrain.convert.onnx_dense import PRODUCTS
from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Operator
from facetrain.convert.onnx_norms import NORMS
from facetrain.convert.onnx_pools import POOLS
from facetrain.convert.onnx_resize import RESIZING
from facetrain.convert.onnx_shapes import SHAPES
from facetrain.convert.onnx_slices import SLICES
from facetrain.errors import InputError

OPERATORS: dict[str, Operator] = {
    **ACTIVATIONS,
    **ARITHMETIC,
    **CONVOLUTIONS,
    **NORMS,
    **POOLS,
    **PRODUCTS,
    **RESIZING,
    **SHAPES,
    **SLICES,
}
"""Operators on tensors that depend on the images; ``CONSTANTS`` has those that are computed once."""

_MOST_LISTED = 20


def check_operators(nodes: Iterable[OnnxNode], source: str) -> None:
    """Refuses a graph with operators that are not in the table, naming all of them and their nodes.

    Raises:
        InputError: if there are any.
    """
    unknown: dict[str, list[str]] = {}
    for node in nodes:
        if node.op not in OPERATORS and node.op not in CONSTANTS:
            unknown.setdefault(node.op, []).append(node.name or "".join(node.outputs[:1]))
    if unknown:
        told = "; ".join(f"{op} ({_names(names)})" for op, names in sorted(unknown.items())[:_MOST_LISTED])
        raise InputError(
            f"{source}: its graph has {len(unknown)} operators that cannot be converted: {told}; export the model for "
            "inference, without them"
        )


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")

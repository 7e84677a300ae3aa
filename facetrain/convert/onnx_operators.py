"""The table of ONNX operators: which function makes layers of a node."""

from __future__ import annotations

from collections.abc import Iterable

from facetrain.convert import onnx_affine, onnx_convolutions, onnx_pools
from facetrain.convert.onnx_activations import ACTIVATIONS
from facetrain.convert.onnx_constants import CONSTANTS
from facetrain.convert.onnx_dense import PRODUCTS
from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_graph import Operator
from facetrain.convert.onnx_norms import NORMS
from facetrain.convert.onnx_resize import RESIZING
from facetrain.convert.onnx_shapes import SHAPES
from facetrain.errors import InputError

OPERATORS: dict[str, Operator] = {
    **ACTIVATIONS,
    **NORMS,
    **PRODUCTS,
    **RESIZING,
    **SHAPES,
    "Add": onnx_affine.add,
    "AveragePool": onnx_pools.average_pool,
    "Conv": onnx_convolutions.conv,
    "ConvTranspose": onnx_convolutions.conv_transpose,
    "Div": onnx_affine.divide,
    "GlobalAveragePool": onnx_pools.global_average_pool,
    "GlobalMaxPool": onnx_pools.global_max_pool,
    "Max": onnx_affine.maximum,
    "MaxPool": onnx_pools.max_pool,
    "Mean": onnx_affine.mean,
    "Min": onnx_affine.minimum,
    "Mul": onnx_affine.multiply,
    "Neg": onnx_affine.negative,
    "Reciprocal": onnx_affine.reciprocal,
    "Sub": onnx_affine.subtract,
    "Sum": onnx_affine.add,
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

"""From an ONNX file to a functional Keras model that takes images with channels last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_constants import CONSTANTS
from facetrain.convert.onnx_file import OnnxFile, OnnxNode, check_onnx
from facetrain.convert.onnx_graph import Graph
from facetrain.convert.onnx_names import clean_name
from facetrain.convert.onnx_operators import OPERATORS, check_operators
from facetrain.convert.onnx_tensors import Tensor
from facetrain.errors import InputError

MAX_SIDE = 4096
_COLOURS = 3


@dataclass(frozen=True)
class Rebuilt:
    """A Keras model made of an ONNX graph.

    Attributes:
        model: pixels [B, H, W, 3] -> embeddings [B, D].
        input_name, output_name: in the graph.
        channels_first: whether the graph takes [B, 3, H, W].
        batch: number of images that the graph fixes, or None.
        epsilons: of its batch normalisations.
        weights: names of the arrays of the file that are in the model.
        unused: names of those that are not.
        normalised: whether the last step gives embeddings unit length.
    """

    model: keras.Model
    input_name: str
    output_name: str
    channels_first: bool
    batch: Optional[int]
    epsilons: tuple[float, ...]
    weights: tuple[str, ...]
    unused: tuple[str, ...]
    normalised: bool


def rebuild(file: OnnxFile, input_size: Optional[int] = None, output: Optional[str] = None) -> Rebuilt:
    """Makes a Keras model of an ONNX graph.

    Args:
        file: the graph.
        input_size: height and width of the images, where the graph leaves them open.
        output: name of the graph's output, where it has several.
    Raises:
        InputError: if the graph has operators that are not supported (all of them are named), takes other things than
            images, or is not valid.
    """
    output = _output(file, output)
    nodes = _needed(file, output)
    check_operators(nodes, str(file.path))
    check_onnx(file)
    name, batch, shape, axes = _input(file, nodes, input_size)
    graph = Graph(file, nodes, output, batch)
    pixels = graph.add_input(name, shape, axes)
    result = _embeddings(graph, graph.build(OPERATORS, CONSTANTS))
    model = keras.Model(pixels.value, result.value, name=clean_name(file.path.stem, "model"))
    floats = {name for name, array in file.arrays.items() if array.dtype.kind == "f"}
    return Rebuilt(
        model=model,
        input_name=name,
        output_name=output,
        channels_first=axes != (0, 1, 2, 3),
        batch=batch,
        epsilons=tuple(sorted(graph.epsilons)),
        weights=tuple(sorted(floats & graph.used)),
        unused=tuple(sorted(floats - graph.used)),
        normalised=result.form is not None and result.form.kind == "unit",
    )


def _output(file: OnnxFile, wanted: Optional[str]) -> str:
    if wanted is None and len(file.outputs) == 1:
        return file.outputs[0]
    if wanted not in file.outputs:
        known = ", ".join(repr(name[:80]) for name in file.outputs[:10]) or "none"
        raise InputError(
            f"{file.path}: expected one output, the embedding, but the graph has {known}"
            + (f"; received --output {wanted!r}" if wanted else "; name it with --output")
        )
    return wanted


def _needed(file: OnnxFile, output: str) -> list[OnnxNode]:
    """Returns the nodes that the output depends on, in order."""
    wanted, needed = {output}, []
    for node in reversed(file.nodes):
        if wanted.intersection(name for name in node.outputs if name):
            needed.append(node)
            wanted.update(node.inputs)
    if not needed:
        raise InputError(f"{file.path}: nothing in the graph computes its output {output[:80]!r}")
    return needed[::-1]


def _input(
    file: OnnxFile, nodes: Sequence[OnnxNode], input_size: Optional[int]
) -> tuple[str, Optional[int], tuple[int, ...], tuple[int, ...]]:
    """Returns name, number of images, shape of an image with channels last, and layout of the graph's input."""
    read = {name for node in nodes for name in node.inputs}
    inputs = [(name, sizes) for name, sizes in file.inputs if name in read]
    if len(inputs) != 1:
        names = ", ".join(repr(name[:80]) for name, _ in inputs[:10]) or "none"
        raise InputError(f"{file.path}: expected one input, the images, but the embedding depends on {names}")
    (name, sizes), told = inputs[0], f"{file.path}: input {inputs[0][0][:80]!r}"
    if len(sizes) != 4 or (sizes[1] != _COLOURS and sizes[3] != _COLOURS):
        shown = [size or "?" for size in sizes]
        raise InputError(f"{told} has shape {shown}, expected images [B, 3, H, W] or [B, H, W, 3]")
    first = sizes[1] == _COLOURS
    sides = [side or input_size for side in (sizes[2:] if first else sizes[1:3])]
    if None in sides:
        raise InputError(f"{told} leaves height and width open; give them with --input-size, e.g. 112")
    if max(sides) > MAX_SIDE or (input_size is not None and set(sides) != {input_size}):
        raise InputError(f"{told} takes images of {sides[0]}x{sides[1]} pixels, received --input-size {input_size}")
    return name, sizes[0], (*sides, _COLOURS), (0, 2, 3, 1) if first else (0, 1, 2, 3)


def _embeddings(graph: Graph, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"{graph.file.path}: its output does not depend on the images")
    if value.rank > 2 and np.prod(value.dims) == value.dims[0]:
        flat = graph.layer(keras.layers.Flatten, value.value, part="flatten")
        value = Tensor(flat, (0, 1), form=value.form)
    plain = graph.plain(value)
    if plain.rank != 2:
        raise InputError(
            f"{graph.file.path}: expected embeddings [B, D], its output is {list(plain.dims)} for an image"
        )
    return Tensor(plain.value, plain.axes, form=value.form)

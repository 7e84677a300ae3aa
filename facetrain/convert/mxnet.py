"""InsightFace's MXNet models -> an embedding model: fresnet (IResNet) and fmobilefacenet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

import numpy as np
from tensorflow import keras

from facetrain.convert import iresnet_names, mobilefacenet_names
from facetrain.convert.conversion import Conversion, ConvertOptions, Epsilons
from facetrain.convert.finish import finish_conversion
from facetrain.convert.mxnet_graph import (
    BN_EPSILON,
    DATA,
    SAME_OPERATIONS,
    SCALAR_OPERATIONS,
    graph_judge,
    mxnet_judge,
)
from facetrain.convert.mxnet_params import read_mxnet_params
from facetrain.convert.mxnet_symbol import Symbol, read_mxnet_symbol
from facetrain.convert.report import ConversionReport
from facetrain.convert.weights import MXNET_NAMES, Part, fill_model
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import SCALINGS

_RELATIVE, _ABSOLUTE = 1e-5, 1e-9


def convert_mxnet(
    symbol: PathLike, params: PathLike, out: PathLike, options: Optional[ConvertOptions] = None
) -> ConversionReport:
    """Converts a model of InsightFace's MXNet code into a model folder; MXNet is not needed.

    The graph tells the epsilon and ``fix_gamma`` of each batch normalisation, the dropout, and how pixels are scaled;
    it is also computed node by node and compared with the result, besides MXNet itself where that is installed.

    Args:
        symbol: the graph, ``model-symbol.json``; what follows the node ``fc1`` is left out.
        params: the weights, ``model-0000.params``.
        out: folder to write.
        options: what the user says about the model.
    Raises:
        InputError: if a file is damaged, the network is another, or the result differs from a judge.
    """
    source, graph = str(params), read_mxnet_symbol(symbol)
    every = read_mxnet_params(params)
    tensors = {name: _tensor(every, name, source) for name in graph.variables() if name != DATA}
    judges = (graph_judge(graph, dict(tensors), str(symbol)),)
    scaling = _find_scaling(graph, str(symbol))
    epsilons = _epsilons(graph, str(symbol))
    network = _build(graph, tensors, source)
    notes = [*_fix_gammas(graph, tensors), *_fold_bias(network.model, tensors)]
    matching = fill_model(network.model, network.parts, tensors, MXNET_NAMES, source)
    for part in network.parts:
        if part.kind == "norm":
            network.model.get_layer(part.layer).epsilon = epsilons.get(part.source, BN_EPSILON)
    runtime = mxnet_judge(symbol, params, graph.nodes[-1].name)
    if not runtime:
        notes.append("MXNet is not installed: the file's own graph, computed node by node, was the judge")
    conversion = Conversion(
        model=network.model,
        source=source,
        family=network.family,
        matching=matching._replace(skipped=tuple(name for name in every if name not in graph.variables())),
        epsilons=Epsilons(tuple(sorted(set(epsilons.values()))), stored=True, usual=network.usual_epsilons),
        scaling=scaling,
        channels="RGB",
        template="arcface_112",
        scales_itself=scaling is not None,
        judges=runtime + judges,
        notes=tuple(notes),
    )
    return finish_conversion(conversion, out, options or ConvertOptions())


class _Network(NamedTuple):
    family: str
    model: keras.Model
    parts: list[Part]
    usual_epsilons: tuple[float, ...]


def _tensor(tensors: Mapping[str, np.ndarray], name: str, source: str) -> np.ndarray:
    if name not in tensors:
        raise InputError(
            f"{source}: the graph needs a tensor {name}, the file has none; give the two files of one model"
        )
    return tensors[name]


def _build(graph: Symbol, tensors: Mapping[str, np.ndarray], source: str) -> _Network:
    """Recognises the network by its names and builds it, with new weights."""
    if iresnet_names.MXNET.weight("stage1_unit1_conv1") in tensors:
        names = iresnet_names.MXNET
        form = iresnet_names.find_form(names, tensors, source)
        dropout = next((float(node.get("p", 0.5)) for node in graph.nodes if node.op == "Dropout"), 0.0)
        model = iresnet_names.build(form, names, BN_EPSILON, dropout)
        return _Network(f"{names.family} {form.blocks}", model, iresnet_names.name_parts(form, names), (2e-5,))
    mobile = mobilefacenet_names.MXNET
    if mobile.kernel(mobile.stem) in tensors:
        shape = mobilefacenet_names.find_form(mobile, tensors, source)
        model, parts = mobilefacenet_names.build(shape, BN_EPSILON), mobilefacenet_names.name_parts(shape, mobile)
        return _Network(f"{mobile.family} {shape.blocks}", model, parts, (2e-5, BN_EPSILON))
    raise InputError(
        f"{source}: expected the tensors of {iresnet_names.MXNET.family} or {mobile.family}, found others "
        f"({', '.join(list(tensors)[:4])}); other networks can be converted from ONNX"
    )


def _epsilons(graph: Symbol, source: str) -> dict[str, float]:
    """Returns the epsilon of each batch normalisation by its name."""
    found = {node.name: node.get("eps", BN_EPSILON) for node in graph.nodes if node.op == "BatchNorm"}
    for name, value in found.items():
        if not isinstance(value, (int, float)) or not 0 < value < 1:
            raise InputError(f"{source}: node {name!r} should have an eps between 0 and 1, received {value!r}")
    return {name: float(value) for name, value in found.items()}


def _fix_gammas(graph: Symbol, tensors: dict[str, np.ndarray]) -> list[str]:
    """Puts 1 where the graph says that a scale is 1, whatever the file has there."""
    fixed = [node.name for node in graph.nodes if node.op == "BatchNorm" and node.get("fix_gamma", True)]
    for name in fixed:
        gamma = name + MXNET_NAMES["gamma"]
        if gamma in tensors:
            tensors[gamma] = np.ones_like(tensors[gamma], np.float32)
    return [f"fix_gamma: the scale of {', '.join(fixed)} is 1, whatever the file has there"] if fixed else []


def _fold_bias(model: keras.Model, tensors: dict[str, np.ndarray]) -> list[str]:
    """Takes the bias of the last matrix into the mean that is subtracted next, where our neck has no bias."""
    bias, mean = "pre_fc1_bias", "fc1_moving_mean"
    if model.get_layer("neck_dense").use_bias or bias not in tensors or mean not in tensors:
        return []
    tensors[mean] = np.asarray(tensors[mean], np.float32) - np.asarray(tensors.pop(bias), np.float32)
    return [f"{bias} was subtracted from {mean}: the same embedding without a bias"]


def _find_scaling(graph: Symbol, source: str) -> Optional[str]:
    """Returns the name of the pixel scaling at the beginning of the graph; None if there is none.

    Raises:
        InputError: if the graph scales pixels in a way that has no name here.
    """
    place = next((place for place, node in enumerate(graph.nodes) if node.name == DATA), None)
    if place is None:
        raise InputError(f"{source}: expected a graph with an input called {DATA!r}, found none")
    zero, one, scaled = 0.0, 1.0, False
    while True:
        users = [position for position, node in enumerate(graph.nodes) if place in node.inputs]
        node = graph.nodes[users[0]] if len(users) == 1 else None
        if node is None or node.op not in (*SCALAR_OPERATIONS, *SAME_OPERATIONS):
            break
        if node.op in SCALAR_OPERATIONS:
            function, value, scaled = SCALAR_OPERATIONS[node.op], float(node.get("scalar", 0.0)), True
            zero, one = function(zero, value), function(one, value)
        place = users[0]
    if not scaled:
        return None
    for name, (offset, scale) in SCALINGS.items():
        if np.allclose([zero, one], [-offset / scale, (1 - offset) / scale], rtol=_RELATIVE, atol=_ABSOLUTE):
            return name
    raise InputError(
        f"{source}: its graph turns pixels 0 and 1 into {zero:.6g} and {one:.6g}, which no scaling here does "
        f"({', '.join(SCALINGS)})"
    )

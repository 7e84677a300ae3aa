"""Graphs and weights of InsightFace's MXNet networks, as narrow and shallow as their form allows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.convert.states import Maker, State
from tests.convert.writers import Graph, write_params

EPS = {"eps": 2e-5, "fix_gamma": False, "momentum": 0.9}


class Files(NamedTuple):
    """A graph and its weights."""

    symbol: Path
    params: Path


def _pixels(graph: Graph, scale: float | None) -> int:
    x = graph.op("_copy", "id", [graph.variable("data")], {})
    if scale is None:
        return x
    x = graph.op("_minus_scalar", "_minusscalar0", [x], {"scalar": 127.5})
    return graph.op("_mul_scalar", "_mulscalar0", [x], {"scalar": scale})


def _embedding(graph: Graph, make: Maker, x: int, features: int, dims: int) -> int:
    make.kernel("pre_fc1", dims, features)
    make.vector("pre_fc1_bias", dims)
    make.norm("fc1", dims)
    return graph.norm(graph.dense(x, "pre_fc1", dims), "fc1", eps=2e-5, fix_gamma=True)


def fresnet(scale: float | None = 0.0078125, base: int = 16, side: int = 2, dims: int = 8) -> tuple[Graph, int, State]:
    """One block a stage; the graph, its output and its weights."""
    graph, make = Graph(), Maker("mxnet", 3)

    def conv(x: int, name: str, out: int, into: int, kernel: int, stride: int = 1) -> int:
        make.kernel(name, out, into, kernel, kernel)
        return graph.conv(x, name, out, kernel, stride, kernel // 2)

    def norm(x: int, name: str, channels: int) -> int:
        make.norm(name, channels)
        return graph.norm(x, name, **EPS)

    def act(x: int, name: str, channels: int) -> int:
        make.vector(f"{name}_gamma", channels)
        return graph.prelu(x, name)

    x = act(norm(conv(_pixels(graph, scale), "conv0", base, 3, 3), "bn0", base), "relu0", base)
    before = base
    for stage in range(4):
        unit, channels = f"stage{stage + 1}_unit1_", base << stage
        y = norm(conv(norm(x, f"{unit}bn1", before), f"{unit}conv1", channels, before, 3), f"{unit}bn2", channels)
        y = conv(act(y, f"{unit}relu1", channels), f"{unit}conv2", channels, channels, 3, 2)
        y = norm(y, f"{unit}bn3", channels)
        shortcut = norm(conv(x, f"{unit}conv1sc", channels, before, 1, 2), f"{unit}sc", channels)
        x, before = graph.op("elemwise_add", f"_plus{stage}", [y, shortcut], {}), channels
    x = graph.op("Dropout", "dropout0", [norm(x, "bn1", before)], {"p": 0.4})
    return graph, _embedding(graph, make, x, before * side * side, dims), make.state


def fmobilefacenet(side: int = 2, dims: int = 8) -> tuple[Graph, int, State]:
    """One bottleneck a row; batch normalisations with MXNet's own epsilon but for the last."""
    graph, make = Graph(), Maker("mxnet", 4)

    def linear(x: int, name: str, out: int, into: int, kernel: int = 1, stride: int = 1, pad: int = 0) -> int:
        make.kernel(f"{name}_conv2d", out, into, kernel, kernel)
        make.norm(f"{name}_batchnorm", out)
        x = graph.conv(x, f"{name}_conv2d", out, kernel, stride, pad, groups=out if into == 1 else 1)
        return graph.norm(x, f"{name}_batchnorm", fix_gamma=False, momentum=0.9)

    def conv(x: int, name: str, out: int, into: int, kernel: int = 1, stride: int = 1) -> int:
        x = linear(x, name, out, into, kernel, stride, kernel // 2)
        make.vector(f"{name}_relu_gamma", out)
        return graph.prelu(x, f"{name}_relu")

    def bottleneck(x: int, name: str, out: int, into: int, inside: int, stride: int) -> int:
        x = conv(conv(x, f"{name}_conv_sep", inside, into), f"{name}_conv_dw", inside, 1, 3, stride)
        return linear(x, f"{name}_conv_proj", out, inside)

    x = conv(conv(_pixels(graph, 0.0078125), "conv_1", 64, 3, 3, 2), "conv_2_dw", 64, 1, 3)
    rows = (("23", "3", 64, 64, 128, 128), ("34", "4", 128, 64, 256, 256), ("45", "5", 128, 128, 512, 256))
    for down, row, out, into, inside, inside_row in rows:
        x = bottleneck(x, f"dconv_{down}", out, into, inside, 2)
        y = bottleneck(x, f"res_{row}_block0", out, out, inside_row, 1)
        x = graph.op("elemwise_add", f"_plus{row}", [y, x], {})
    x = linear(conv(x, "conv_6sep", 128, 128), "conv_6dw7_7", 128, 1, side)
    return graph, _embedding(graph, make, x, 128, dims), make.state


def write(folder: Path, graph: Graph, output: int, state: State) -> Files:
    """Writes both files of a model."""
    symbol = graph.write(folder / "model-symbol.json", output)
    return Files(symbol, write_params(folder / "model-0000.params", state))


def head(graph: Graph, output: int, state: State, classes: int = 3) -> int:
    """Adds class centres behind the embedding, as models have them in training."""
    state["fc7_weight"] = np.ones((classes, 8), np.float32)
    inputs = [output, graph.variable("fc7_weight")]
    return graph.op("FullyConnected", "fc7", inputs, {"num_hidden": classes, "no_bias": True})

"""Graphs built by the onnx helper, and onnxruntime as the judge of what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from tensorflow import keras

from facetrain.convert.onnx_file import read_onnx
from facetrain.convert.onnx_model import Rebuilt, rebuild

HEIGHT, WIDTH = 8, 10


class Maker:
    """Writes an ONNX graph step by step; every step returns the name of its result.

    Args:
        opset: version of the operators.
        shape: of the input; None for an open size.
    """

    def __init__(self, opset: int = 17, shape: tuple = (None, 3, HEIGHT, WIDTH)):
        self.opset, self.shape = opset, shape
        self.rng = np.random.default_rng(0)
        self.nodes: list = []
        self.weights: dict[str, np.ndarray] = {}
        self.input = "images"

    def op(self, kind: str, *inputs: Any, outputs: int = 1, name: Optional[str] = None, **attributes: Any) -> Any:
        """Adds a node; arrays among the inputs become weights."""
        from onnx import helper

        name = name or f"{kind.lower()}_{len(self.nodes)}"
        names = [self.const(value) if isinstance(value, (np.ndarray, np.generic)) else value for value in inputs]
        results = [f"{name}:{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, results, name=name, **attributes))
        return results[0] if outputs == 1 else results

    def const(self, array: Any) -> str:
        """Adds a weight."""
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = f"weight_{len(self.weights)}"
        self.weights[name] = array
        return name

    def normal(self, *shape: int) -> np.ndarray:
        """Returns random numbers, always the same ones."""
        return self.rng.normal(size=shape).astype(np.float32)

    def conv(self, x: str, channels: int, filters: int, kernel: int = 1, **attributes: Any) -> str:
        """Adds a convolution with bias."""
        groups = attributes.get("group", 1)
        weights = self.normal(filters, channels // groups, kernel, kernel) / np.sqrt(channels // groups) / kernel
        return self.op("Conv", x, weights, self.normal(filters), **attributes)

    def model(self, output: str, flat: bool = True) -> Any:
        """Returns the model; the output is flattened to embeddings unless it is flat already."""
        from onnx import TensorProto, helper, numpy_helper

        output = self.op("Flatten", output, name="flat") if flat else output
        graph = helper.make_graph(
            self.nodes,
            "test",
            [
                helper.make_tensor_value_info(
                    self.input, TensorProto.FLOAT, [s or f"s{i}" for i, s in enumerate(self.shape)]
                )
            ],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["images", "values"])],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def save(self, folder: Path, output: str, flat: bool = True) -> Path:
        """Writes the model and returns its path."""
        path = folder / "graph.onnx"
        path.write_bytes(self.model(output, flat).SerializeToString())
        return path


def judged(path: Path, tolerance: float = 1e-5, **options: Any) -> Rebuilt:
    """Rebuilds a graph, compares with onnxruntime on random images, and returns what was rebuilt."""
    runtime = pytest.importorskip("onnxruntime")
    file = read_onnx(path)
    rebuilt = rebuild(file, **options)
    images = np.random.default_rng(1).normal(size=(rebuilt.batch or 3, *rebuilt.model.input_shape[1:]))
    images = images.astype(np.float32)
    turned = images.transpose(0, 3, 1, 2) if rebuilt.channels_first else images
    session = runtime.InferenceSession(file.content, providers=["CPUExecutionProvider"])
    (expected,) = session.run([rebuilt.output_name], {rebuilt.input_name: np.ascontiguousarray(turned)})
    received = rebuilt.model(images, training=False).numpy()
    expected = expected.reshape(received.shape)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(received, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max()))
    return rebuilt


def kinds(rebuilt: Rebuilt) -> list[str]:
    """Returns the classes of the layers, in order, without the input and the flattening at the end."""
    names = [type(layer).__name__ for layer in rebuilt.model.layers if not isinstance(layer, keras.layers.InputLayer)]
    for last in ("Flatten", "Permute"):
        names = names[:-1] if names[-1:] == [last] else names
    return names

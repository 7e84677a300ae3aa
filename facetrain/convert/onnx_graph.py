"""The rebuilding of an ONNX graph: values by name, layers with names and weights, layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxFile, OnnxNode
from facetrain.convert.onnx_layouts import Layouts
from facetrain.convert.onnx_names import LayerNames
from facetrain.convert.onnx_tensors import Constant, Tensor, Value
from facetrain.errors import InputError

Operator = Callable[..., Any]

INPUT_NAME = "pixels"
_KERAS_ERRORS = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, tf.errors.OpError)


class Graph(Layouts):
    """What operators work with: they ask for values and layouts, and add layers.

    Args:
        file: the model.
        nodes: those that the wanted output depends on, in order.
        output: name of the wanted output.
        batch: number of images that the file fixes, or None.

    Attributes:
        values: what is known of each tensor by name.
        epsilons: of the batch normalisations that were met.
        used: names of weights that were taken.
    """

    def __init__(self, file: OnnxFile, nodes: Sequence[OnnxNode], output: str, batch: Optional[int]):
        super().__init__(LayerNames(nodes, taken=(INPUT_NAME,)), nodes[0])
        self.file, self.opset, self.batch = file, file.opset, batch
        self.values: dict[str, Value] = {name: Constant(array) for name, array in file.arrays.items()}
        self.epsilons: set[float] = set()
        self.used: set[str] = set()
        self._nodes, self._output = nodes, output
        self._aliases: dict[str, str] = {}
        self._consumers: dict[str, list[OnnxNode]] = {}
        for node in nodes:
            for name in node.inputs:
                self._consumers.setdefault(name, []).append(node)

    def add_input(self, name: str, shape: Sequence[int], axes: tuple[int, ...]) -> Tensor:
        """Adds the input of the model, pixels [B, H, W, 3].

        Args:
            name: of the graph's input.
            shape: (H, W, 3).
            axes: which axis of the graph's input each axis is.
        """
        tensor = Tensor(keras.Input(tuple(shape), name=INPUT_NAME, dtype="float32"), axes)
        self.values[name] = self.input = tensor
        return tensor

    def build(self, operators: Mapping[str, Operator], foldable: Mapping[str, Operator]) -> Value:
        """Goes through all nodes and returns the value of the output.

        Args:
            operators: what to do with nodes that depend on the images.
            foldable: how to compute those that do not; also for those that only compute with shapes.
        Raises:
            InputError: naming the node, if one of them cannot be expressed.
        """
        waiting = [node for node in self._nodes if not self._fold(node, foldable)]
        for node in waiting:
            if node.outputs[0] in self._aliases:
                self.values[node.outputs[0]] = self.values[self._aliases[node.outputs[0]]]
            elif not self._fold(node, foldable):
                with self._told(node):
                    inputs = self._inputs(node)
                    if node.op not in operators:
                        raise InputError("it is supported for constants only, but depends on the images here")
                    if any(name and value is None for name, value in zip(node.inputs, inputs)):
                        raise InputError("one of its inputs is nothing that an earlier node computes")
                    self._set(node, operators[node.op](self, node, *inputs))
        if self._output not in self.values:
            raise InputError(f"{self.file.path}: nothing in the graph computes its output {self._output[:80]!r}")
        return self.values[self._output]

    def numbers(self, value: Optional[Value], what: str) -> np.ndarray:
        """Returns a constant's array.

        Raises:
            InputError: if ``value`` depends on the images or on their number.
        """
        if not isinstance(value, Constant) or value.counts_images:
            raise InputError(f"its {what} must be fixed numbers, but they are computed from the images")
        return value.array

    def tensor(self, value: Optional[Value], what: str = "input") -> Tensor:
        """Returns a tensor that depends on the images; raises InputError for a constant."""
        if not isinstance(value, Tensor):
            raise InputError(f"its {what} must depend on the images, but it is a constant")
        return value

    def take_bias(self, node: OnnxNode, channels: int, trailing: int) -> Optional[np.ndarray]:
        """Returns the constant that the next node adds to each channel of this node's output, and takes it over.

        Args:
            node: the one whose only consumer is looked at.
            channels: number of channels.
            trailing: number of axes after that of the channels.
        Returns:
            [channels], or None if the next node does something else.
        """
        name = node.outputs[0]
        consumers = self._consumers.get(name, [])
        if len(consumers) != 1 or consumers[0].op != "Add" or name == self._output:
            return None
        other = [each for each in consumers[0].inputs if each != name]
        value = self.values.get(other[0]) if len(other) == 1 else None
        if not isinstance(value, Constant) or value.counts_images or value.array.size != channels:
            return None
        shape = value.array.shape
        if len(shape) > trailing + 2 or shape[max(len(shape) - trailing - 1, 0)] != channels or len(shape) <= trailing:
            return None
        self.used.add(other[0])
        self._aliases[consumers[0].outputs[0]] = name
        return value.array.reshape(-1)

    def _fold(self, node: OnnxNode, foldable: Mapping[str, Operator]) -> bool:
        """Computes a node whose inputs are constants, or that asks for a shape; returns whether it did."""
        if node.outputs[0] in self.values:
            return True
        if node.op not in foldable:
            return False
        inputs = self._inputs(node)
        known = all(isinstance(value, Constant) for name, value in zip(node.inputs, inputs) if name)
        if not known and not (node.op in ("Shape", "Size") and isinstance(inputs[0], Tensor)):
            return False
        with self._told(node):
            self._set(node, foldable[node.op](self, node, *inputs))
        return True

    def _inputs(self, node: OnnxNode) -> list[Optional[Value]]:
        self.used.update(name for name in node.inputs if name in self.file.arrays)
        return [self.values.get(name) if name else None for name in node.inputs]

    def _set(self, node: OnnxNode, results: Any) -> None:
        results = results if isinstance(results, (list, tuple)) else [results]
        for name, value in zip(node.outputs, results):
            self.values[name] = value

    @contextmanager
    def _told(self, node: OnnxNode) -> Iterator[None]:
        """Names the node in whatever goes wrong with it."""
        self.node = node
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.file.path}: {node.label}: {error}") from error
        except _KERAS_ERRORS as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"{self.file.path}: {node.label} does not fit its inputs ({reason})") from error

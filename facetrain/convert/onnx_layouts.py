"""Adding layers, and bringing tensors into the layout that a layer needs, moving them only if it must be."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from tensorflow import keras

from facetrain.convert.onnx_file import OnnxNode
from facetrain.convert.onnx_names import LayerNames
from facetrain.convert.onnx_regroup import lies_in
from facetrain.convert.onnx_tensors import Folded, Tensor, channels_last
from facetrain.errors import InputError

MAX_ELEMENTS = 1 << 26
"""Most elements of one tensor of one image."""


class Layouts:
    """The layers of a graph in the making.

    Args:
        names: makes their names.
        node: the node at hand, after which layers are named; moves on with the graph.
    """

    def __init__(self, names: LayerNames, node: OnnxNode):
        self.names, self.node = names, node
        self._arranged: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}
        self._flattened: dict[int, tuple[Any, Tensor]] = {}

    def layer(
        self, layer_class: type, inputs: Any, weights: Sequence[np.ndarray] = (), part: str = "", **arguments: Any
    ) -> Any:
        """Adds a layer, named after the node at hand.

        Args:
            layer_class: a class of Keras or ours.
            inputs: a tensor of Keras, or several.
            weights: all its weights, in the order of Keras.
            part: what the layer does, where a node becomes several.
            **arguments: of the layer.
        Returns:
            the tensor of Keras that it gives.
        """
        layer = layer_class(name=self.names.new(self.node, part), dtype="float32", **arguments)
        outputs = layer(inputs)
        if len(weights):
            layer.set_weights([np.asarray(weight, np.float32) for weight in weights])
        self.check_size(tuple(outputs.shape)[1:])
        return outputs

    def check_size(self, dims: Sequence[int]) -> None:
        """Raises InputError if a tensor of these sizes, without the batch axis, would be unreasonably large."""
        if None in dims or prod(map(int, dims)) > MAX_ELEMENTS:
            raise InputError(f"its result {list(dims)} has more than {MAX_ELEMENTS} elements for each image")

    def arranged(self, tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Returns a tensor with its axes in the given order, moving them only if it must."""
        tensor = self.unfolded(tensor)
        if tensor.axes == axes:
            return tensor
        key = (id(tensor.value), axes)
        if key not in self._arranged or self._arranged[key][0].axes != tensor.axes:
            moves = [tensor.axes.index(axis) for axis in axes]
            if lies_in((1, *tensor.dims), tensor.axes, axes):
                shape = [int(tensor.value.shape[axis]) for axis in moves[1:]]
                value = self.layer(keras.layers.Reshape, tensor.value, part="reshape", target_shape=shape)
            else:
                value = self.layer(keras.layers.Permute, tensor.value, part="permute", dims=moves[1:])
            self._arranged[key] = (tensor, Tensor(value, axes, nonnegative=tensor.nonnegative))
        return self._arranged[key][1]

    def flattened(self, tensor: Tensor) -> Tensor:
        """Flattens a tensor whose axes lie in another order than the graph means, and remembers the order."""
        places = tuple(axis - 1 for axis in tensor.axes[1:])
        folded = Folded(tuple(tensor.dims[place] for place in places), places)
        value = self.layer(keras.layers.Flatten, tensor.value)
        self._flattened[id(value)] = (value, tensor)
        return Tensor(value, (0, 1), folded, None, tensor.nonnegative)

    def expanded(self, tensor: Tensor) -> Tensor:
        """Returns a tensor whose flattened axis is taken apart again, if its elements lie in another order."""
        if tensor.folded is None:
            return tensor
        if id(tensor.value) in self._flattened:
            return self._flattened[id(tensor.value)][1]
        dims, axes = tensor.folded
        value = self.layer(keras.layers.Reshape, tensor.value, part="unflatten", target_shape=dims)
        return Tensor(value, (0, *(axis + 1 for axis in axes)), nonnegative=tensor.nonnegative)

    def unfolded(self, tensor: Tensor) -> Tensor:
        """Returns a tensor whose elements lie in the order that the graph means, within each axis."""
        if tensor.folded is None:
            return tensor
        apart = self.expanded(tensor)
        apart = self.arranged(apart, tuple(range(apart.rank)))
        return Tensor(
            self.layer(keras.layers.Flatten, apart.value, part="flatten"), (0, 1), None, None, tensor.nonnegative
        )

    def plain(self, tensor: Tensor) -> Tensor:
        """Returns a tensor with its axes in the order of ONNX."""
        return self.arranged(tensor, tuple(range(tensor.rank)))

    def channels_last(self, tensor: Tensor) -> Tensor:
        """Returns a tensor with its channels, axis 1 in ONNX, in the last axis."""
        return self.arranged(tensor, channels_last(tensor.rank))

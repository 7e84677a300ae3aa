"""How much memory the passes of a network through one batch take, read off their graph; nothing is computed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from facetrain.kernels import not_compiled

# Operations whose outputs are their inputs under another name or shape.
_SAME = frozenset("ExpandDims Identity IdentityN PreventGradient ReadVariableOp Reshape Snapshot Squeeze".split())
_SAME |= {"StopGradient"}
# Operations that write over an input of the same size that nothing else needs.
_IN_PLACE = frozenset(
    "Abs Add AddN AddV2 BiasAdd Cast Elu EluGrad Erf Exp LeakyRelu LeakyReluGrad Log Maximum Minimum Mul Neg Pow "
    "RealDiv Relu Relu6 Relu6Grad ReluGrad Rsqrt RsqrtGrad SelectV2 Selu SeluGrad Sigmoid SigmoidGrad Softmax "
    "Softplus Sqrt SqrtGrad Square SquaredDifference Sub Tanh TanhGrad".split()
)
_NO_MEMORY = frozenset("Const Placeholder VarHandleOp".split())


class PassMemory(NamedTuple):
    """Bytes that a forward and a backward pass take, weights apart.

    Attributes:
        kept: what is alive between the two.
        peak: most of what is alive in the second, the gradients that it has found included.
    """

    kept: int
    peak: int


class _Buffer:
    """Memory that several tensors may share."""

    def __init__(self, size: int):
        self.size, self.readers = size, 0


def pass_memory(model: keras.Model, batch: int) -> PassMemory:
    """Follows the operations of a training pass in their order and adds up what is alive.

    Workspace inside operations is not counted, and a device that runs operations side by side may have more alive.

    Args:
        model: images [B, S, S, 3] to embeddings [B, D].
        batch: images B.
    """
    images = tf.TensorSpec([batch, *model.input_shape[1:]], model.inputs[0].dtype)
    upstream = tf.TensorSpec([batch, *model.output_shape[1:]], model.outputs[0].dtype)
    forward: list[int] = []

    def both(images: tf.Tensor, upstream: tf.Tensor) -> list[tf.Tensor]:
        with not_compiled(), tf.GradientTape() as tape:
            embeddings = model(images, training=True)
        forward.append(len(embeddings.graph.get_operations()))
        gradients = tape.gradient(embeddings, model.trainable_variables, output_gradients=upstream)
        return [gradient for gradient in gradients if gradient is not None]

    graph = tf.function(both).get_concrete_function(images, upstream).graph
    needed = _needed(graph)
    operations = graph.get_operations()
    inputs = {graph.inputs[0].name: _bytes(graph.inputs[0])}
    return _follow(
        [operation for operation in operations if operation.name in needed],
        {operation.name for operation in operations[: forward[-1]]},
        [tensor.name for tensor in graph.outputs],
        inputs,
    )


def _needed(graph: tf.Graph) -> set[str]:
    """Returns the names of the operations that TensorFlow does not prune."""
    open_ones = [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    found: set[str] = set()
    while open_ones:
        operation = open_ones.pop()
        if operation.name not in found:
            found.add(operation.name)
            open_ones += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return found


def _follow(
    operations: Sequence[tf.Operation], forward: set[str], outputs: Sequence[str], inputs: dict[str, int]
) -> PassMemory:
    readers = Counter(tensor.name for operation in operations for tensor in operation.inputs)
    readers.update(outputs)  # never read to the end
    buffers: dict[str, _Buffer] = {}
    alive = peak = kept = 0
    for operation in operations:
        for place, tensor in enumerate(operation.outputs):
            buffer = _reused(operation, place, buffers)
            if buffer is None:
                size = inputs.get(tensor.name, 0 if operation.type in _NO_MEMORY else _bytes(tensor))
                buffer = _Buffer(size)
                alive += size
            buffer.readers += readers[tensor.name]
            buffers[tensor.name] = buffer
        is_forward = operation.name in forward
        peak = peak if is_forward else max(peak, alive)
        for tensor in operation.inputs:
            buffers[tensor.name].readers -= 1
        touched = {id(b): b for t in (*operation.inputs, *operation.outputs) for b in [buffers[t.name]]}
        for buffer in touched.values():
            if buffer.readers == 0:
                alive -= buffer.size
                buffer.size = 0  # several operations may find it without readers
        kept = alive if is_forward else kept
    return PassMemory(kept, max(peak, kept))


def _reused(operation: tf.Operation, place: int, buffers: dict[str, _Buffer]) -> _Buffer | None:
    """Returns the buffer of an input that an output takes over."""
    if operation.type in _SAME and place < len(operation.inputs):
        return buffers[operation.inputs[place].name]
    if operation.type in _IN_PLACE:
        size = _bytes(operation.outputs[place])
        own = Counter(tensor.name for tensor in operation.inputs)
        for tensor in operation.inputs:
            buffer = buffers[tensor.name]
            if buffer.size == size and buffer.readers == own[tensor.name]:
                return buffer
    return None


def _bytes(tensor: tf.Tensor) -> int:
    """Returns the size of a tensor; of one of unknown shape, as reserved space has, 0."""
    if tensor.dtype in (tf.resource, tf.variant) or not tensor.shape.is_fully_defined():
        return 0
    return math.prod(tensor.shape) * tensor.dtype.size

"""Which part of the input an output sees: counted through the graph, for convolutions and everything around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.layers.activations import AconC, HardSigmoid, HardSwish
from facetrain.layers.dropout import SeededDropout
from facetrain.surgery.graph import Call, Graph, is_graph, keras_class

_layers = keras.layers
_WINDOWS = (
    _layers.Conv2D,
    _layers.DepthwiseConv2D,
    _layers.SeparableConv2D,
    _layers.MaxPooling2D,
    _layers.AveragePooling2D,
)
_POINTWISE = (
    _layers.Activation,
    _layers.ReLU,
    _layers.LeakyReLU,
    _layers.PReLU,
    _layers.ELU,
    _layers.BatchNormalization,
    _layers.experimental.SyncBatchNormalization,
    _layers.Dropout,
    _layers.SpatialDropout2D,
    _layers.Rescaling,
    _layers.Add,
    _layers.Subtract,
    _layers.Multiply,
    _layers.Average,
    _layers.Maximum,
    _layers.Minimum,
    _layers.Dense,
)
_OWN_POINTWISE = (SeededDropout, AconC, HardSigmoid, HardSwish)
Span = tuple[int, int]


@dataclass(frozen=True)
class ReceptiveField:
    """What a position of a map sees of the input, rows first.

    Attributes:
        size: pixels of the input, along rows and columns, that can reach a position in the middle; more than the input
            has where it is smaller than that.
        stride: pixels of the input from one position to the next; below 1 after upsampling.
        start: first pixel that position (0, 0) sees; negative where the padding begins.
        whole: whether each position sees the whole input, as behind a global pooling.
    """

    size: tuple[int, int]
    stride: tuple[float, float]
    start: tuple[int, int]
    whole: bool


def receptive_field(model: keras.Model, layer: str | None = None) -> ReceptiveField:
    """Returns the receptive field of a model of one image, at its first output or at the output of a layer.

    Convolutions (depthwise, separable, transposed, dilated), poolings, upsampling, padding, cropping, additions and
    concatenations are counted exactly; a layer that is not known, or looks at all positions, sees its whole input.
    Reference: Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.

    Args:
        model: a functional or sequential model from [B, H, W, C] of fixed H and W.
        layer: name of a layer, of its last call if it has several.
    Raises:
        InputError: if the model takes anything else, or there is no such layer.
    """
    return FieldFinder(model).at(layer)


class FieldFinder:
    """Finds the receptive fields of many layers of one model; arguments and errors as in ``receptive_field``."""

    def __init__(self, model: keras.Model):
        self._graph = Graph(model)
        shape = tuple(model.inputs[0].shape)
        if len(model.inputs) != 1 or len(shape) != 4 or None in shape[1:3]:
            raise InputError(
                f"a receptive field needs a model of one image of fixed size [B, H, W, C], model {model.name!r} takes "
                f"{[tuple(tensor.shape) for tensor in model.inputs]}"
            )
        self._model, self._size = model, shape[1:3]

    def at(self, layer: str | None = None) -> ReceptiveField:
        """Returns the field of a position of a layer's output, or of the model's first output."""
        return self.of(self._model.outputs[0] if layer is None else self._output(layer))

    def of(self, tensor: Any) -> ReceptiveField:
        """Returns the field of a position of a tensor of the model's graph."""
        axes = [self._axis(tensor, axis) for axis in (0, 1)]
        size, stride, start, whole = zip(*axes)
        return ReceptiveField(size, stride, start, all(whole))

    def _axis(self, tensor: Any, axis: int) -> tuple[int, float, int, bool]:
        side = tensor.shape[axis + 1] if len(tensor.shape) == 4 else 1
        middle = side // 2
        low, high, whole = self._seen(tensor, axis, middle)
        if whole:
            return self._size[axis], float(self._size[axis]), 0, True
        first, _, _ = self._seen(tensor, axis, 0)
        # Far enough apart for fractions to come out whole.
        period = 64 * 27 * 25
        after, _, _ = self._seen(tensor, axis, middle + period)
        return high - low + 1, float(Fraction(after - low, period)), first, False

    def _seen(self, tensor: Any, axis: int, position: int) -> tuple[int, int, bool]:
        """Returns the first and last pixel that a position sees, beyond the borders too, and whether it is all."""
        reached = _propagate(self._graph, tensor, (position, position), axis)
        spans = [reached[id(source)] for source in self._model.inputs if id(source) in reached]
        if not spans:
            raise InputError(f"model {self._model.name!r} has an output that does not depend on its input")
        return (0, self._size[axis] - 1, True) if spans[0] is None else (*spans[0], False)

    def _output(self, path: str) -> Any:
        calls = [call for call in self._graph.calls if call.layer.name == path]
        if not calls:
            hint = did_you_mean(path, [call.layer.name for call in self._graph.calls])
            raise InputError(f"model {self._model.name!r} has no layer {path!r}{hint}")
        outputs = calls[-1].outputs
        return outputs if hasattr(outputs, "shape") else outputs[0]


def _propagate(graph: Graph, tensor: Any, span: Span | None, axis: int) -> dict[int, Span | None]:
    """Returns for ``id`` of each tensor the span that reaches ``span`` of one tensor; None stands for all positions."""
    reached: dict[int, Span | None] = {id(tensor): span}
    for call in reversed(graph.calls):
        outputs = call.outputs if isinstance(call.outputs, (list, tuple)) else [call.outputs]
        spans = [reached[id(output)] for output in outputs if id(output) in reached]
        if not spans:
            continue
        joined = _union(spans)
        for source, seen in zip(call.inputs, _sources(call, joined, axis)):
            before = [reached[id(source)]] if id(source) in reached else []
            reached[id(source)] = _union([*before, seen])
    return reached


def _union(spans: list[Span | None]) -> Span | None:
    if None in spans:
        return None
    return min(low for low, _ in spans), max(high for _, high in spans)


def _sources(call: Call, span: Span | None, axis: int) -> list[Span | None]:
    """Returns what of each input of a call reaches a span of its output."""
    inputs = call.inputs
    images = all(len(tensor.shape) == 4 for tensor in [*inputs, call.outputs]) if inputs else False
    if span is None or not images:
        return [None] * len(inputs)
    layer, cls = call.layer, keras_class(call.layer)
    if is_graph(layer):
        inner = Graph(layer)
        ways = [_propagate(inner, output, span, axis) for output in layer.outputs]
        seen = ([way[id(tensor)] for way in ways if id(tensor) in way] for tensor in layer.inputs)
        return [_union(spans) if spans else span for spans in seen]
    if cls is _layers.Concatenate:
        return _joined(call, span, axis)
    one = _step(call, span, axis)
    if one is None:
        return [None] * len(inputs)
    # A map of one position may be added to, or multiplied with, every position of another.
    several = len(inputs) > 1
    return [(0, 0) if several and tensor.shape[axis + 1] == 1 else one for tensor in inputs]


def _step(call: Call, span: Span, axis: int) -> Span | None:
    layer, cls, (low, high) = call.layer, keras_class(call.layer), span
    if cls is _layers.Conv2DTranspose:
        taps, stride, before = _transposed_window(call, axis)
        return -((-(low + before - taps + 1)) // stride), (high + before) // stride
    if cls in _WINDOWS:
        taps, stride, before = _window(call, axis)
        return low * stride - before, high * stride - before + taps - 1
    if cls is _layers.ZeroPadding2D:
        return low - layer.padding[axis][0], high - layer.padding[axis][0]
    if cls is _layers.Cropping2D:
        return low + layer.cropping[axis][0], high + layer.cropping[axis][0]
    if cls is _layers.UpSampling2D:
        return _upsampled(layer, span, axis)
    return span if cls in _POINTWISE or isinstance(layer, _OWN_POINTWISE) else None


def _window(call: Call, axis: int) -> tuple[int, int, int]:
    """Returns taps, stride and zeros before the first position of a convolution or pooling."""
    layer = call.layer
    taps = (layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size)[axis]
    taps = (taps - 1) * getattr(layer, "dilation_rate", (1, 1))[axis] + 1
    stride = layer.strides[axis]
    if layer.padding == "valid":
        return taps, stride, 0
    side = call.inputs[0].shape[axis + 1]
    return taps, stride, max((-(-side // stride) - 1) * stride + taps - side, 0) // 2


def _transposed_window(call: Call, axis: int) -> tuple[int, int, int]:
    layer = call.layer
    taps = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis] + 1
    stride = layer.strides[axis]
    if layer.padding == "valid":
        return taps, stride, 0
    side, out = call.inputs[0].shape[axis + 1], call.outputs.shape[axis + 1]
    return taps, stride, max((side - 1) * stride + taps - out, 0) // 2


def _upsampled(layer: keras.layers.Layer, span: Span, axis: int) -> Span | None:
    factor = layer.size[axis]
    if layer.interpolation == "nearest":
        return span[0] // factor, span[1] // factor
    if layer.interpolation != "bilinear":
        return None
    low, high = (Fraction(2 * position + 1, 2 * factor) - Fraction(1, 2) for position in span)
    return math.floor(low), math.ceil(high)


def _joined(call: Call, span: Span, axis: int) -> list[Span | None]:
    """Returns what of each input of a Concatenate reaches a span: all of them, or those that lie there."""
    if call.layer.axis % 4 != axis + 1:
        return [span] * len(call.inputs)
    seen, first = [], 0
    for tensor in call.inputs:
        side = tensor.shape[axis + 1]
        seen.append((max(span[0] - first, 0), min(span[1] - first, side - 1)))
        first += side
    # An input that lies elsewhere is said to show its nearest edge, which is no further than its neighbour's.
    return [(min(low, tensor.shape[axis + 1] - 1), max(high, 0)) for (low, high), tensor in zip(seen, call.inputs)]

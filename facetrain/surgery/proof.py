"""Proof that a rebuilt model gives what its source gives, or the name of the layer where it ceases to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.surgery.graph import all_layers, is_graph
from facetrain.surgery.precision_twin import LOW_PRECISION, twin
from facetrain.surgery.rebuild import Rebuilt

TOLERANCE = 1e-5
"""Largest difference that is called equal in float32, relative to the largest value of an output."""
TOLERANCE_64 = 1e-9
"""The same where both models are computed in float64."""
_SMALLEST = 1e-6  # an output that is no larger is compared as if it were, for rounding has no measure in it
_ROUNDING = 1e-3
"""Largest difference that float32 may show for rounding alone, where float64 shows none."""
_OPEN_SIZE = 32
_BATCH = 2

_ULPS = 1e-6  # how far weights that were computed in float64 may be from those computed in float32, relatively

Outputs = list[np.ndarray]
Again = Optional[Callable[[keras.Model], Rebuilt]]


class SurgeryError(RuntimeError):
    """A surgery that promises equal outputs and does not reach them."""


class Difference(NamedTuple):
    """How far two sets of outputs are apart.

    Attributes:
        max_abs: largest difference of two values.
        max_rel: the same, relative to the largest value of its output.
    """

    max_abs: float
    max_rel: float


def difference(expected: Sequence[np.ndarray], received: Sequence[np.ndarray]) -> Difference:
    """Compares outputs of two models; values that are equal, infinite or not a number alike, do not differ.

    Raises:
        SurgeryError: if their numbers or shapes are not the same.
    """
    shapes = [[list(array.shape) for array in arrays] for arrays in (expected, received)]
    if shapes[0] != shapes[1]:
        raise SurgeryError(f"the source gives outputs of shape {shapes[0]}, the new model {shapes[1]}")
    worst = Difference(0.0, 0.0)
    for old, new in zip(expected, received):
        old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
        with np.errstate(invalid="ignore"):
            gaps = np.where((old == new) | (np.isnan(old) & np.isnan(new)), 0.0, np.abs(old - new))
        gap = float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max(initial=0.0))
        peak = float(np.abs(old[np.isfinite(old)]).max(initial=0.0))
        worst = Difference(max(worst.max_abs, gap), max(worst.max_rel, gap / max(peak, _SMALLEST)))
    return worst


def seeded_inputs(model: keras.Model, batch: int = _BATCH, seed: int = 0) -> list[np.ndarray]:
    """Returns random inputs for a model: normal numbers, 0..255 for uint8, 0 and 1 for other whole numbers.

    Args:
        model: a functional model; open sizes become 32.
        batch: number of examples, unless the model has its own.
        seed: the same seed gives the same inputs.
    Raises:
        InputError: for sparse, ragged or text inputs.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in model.inputs:
        dtype = tf.as_dtype(tensor.dtype)
        numeric = dtype.is_floating or dtype.is_integer or dtype.is_bool
        if not isinstance(getattr(tensor, "type_spec", None), tf.TensorSpec) or not numeric:
            raise InputError(f"input {tensor.name!r} of model {model.name!r} is no dense tensor of numbers")
        first, *sizes = tensor.shape
        shape = [first or batch, *(size or _OPEN_SIZE for size in sizes)]
        if dtype.is_floating:
            arrays.append(rng.normal(size=shape).astype(dtype.as_numpy_dtype))
        else:
            high = 256 if dtype == tf.uint8 else 2
            arrays.append(rng.integers(0, high, shape).astype(dtype.as_numpy_dtype))
    return arrays


def outputs_of(inputs: Sequence[Any], tensors: Sequence[Any], arrays: Sequence[np.ndarray]) -> Outputs:
    """Returns the values of some tensors of a model in inference, for values of its inputs."""
    given = [tf.constant(array, tensor.dtype) for array, tensor in zip(arrays, inputs)]
    values = keras.Model(list(inputs), list(tensors))(given, training=False)
    return [_array(value) for value in tf.nest.flatten(values)]


def compare(rebuilt: Rebuilt, arrays: Sequence[np.ndarray] | None = None) -> Difference:
    """Returns the difference between source and result on given or seeded inputs of the result."""
    arrays = rebuilt.to_range(seeded_inputs(rebuilt.model)) if arrays is None else list(arrays)
    expected = outputs_of(rebuilt.inputs, rebuilt.expected, rebuilt.to_source(arrays))
    return difference(expected, outputs_of(rebuilt.model.inputs, rebuilt.model.outputs, arrays))


def prove(rebuilt: Rebuilt, name: str, again: Again = None) -> None:
    """Raises unless a rebuilt model gives what its source gives on seeded inputs.

    Both are computed in float32; models of lower precision are compared as their float32 twins. Where float32 differs
    by no more than rounding can do, float64 decides: on the two models, or, as the rounding of new weights grows in a
    deep network too, on the surgery done anew in float64, if the weights are the same but for that rounding.

    Args:
        rebuilt: source and result.
        name: of the surgery, for the message.
        again: does the surgery on another model of the same layers.
    Raises:
        SurgeryError: naming the first layer whose outputs differ.
    """
    dtype = "float32" if _is_low(rebuilt.source) or _is_low(rebuilt.model) else None
    arrays = rebuilt.to_range(seeded_inputs(rebuilt.model))
    pair = (rebuilt.source, rebuilt.model) if dtype is None else tuple(_twins(rebuilt, dtype))
    gap = _gap(rebuilt, pair, arrays)
    tolerance = TOLERANCE_64 if _is_double(rebuilt.source) else TOLERANCE
    if gap.max_rel <= tolerance or (gap.max_rel <= _ROUNDING and _equal_in_float64(rebuilt, arrays, again)):
        return
    # The layers themselves are compared as they are, so that those of low precision are allowed their rounding.
    allowed = max(tolerance, gap.max_rel / 64) if dtype else tolerance
    where = _first_difference(rebuilt, rebuilt.source, arrays, allowed)
    raise SurgeryError(
        f"{name} promises equal outputs and does not reach them on model {rebuilt.source.name!r}: they differ by up to "
        f"{gap.max_abs:.2e} ({gap.max_rel:.2e} of the largest value), first in {where}"
    )


def _gap(rebuilt: Rebuilt, pair: Sequence[keras.Model], arrays: Outputs) -> Difference:
    source, result = pair
    if source is rebuilt.source:
        expected = outputs_of(rebuilt.inputs, rebuilt.expected, rebuilt.to_source(arrays))
    else:
        # A twin is cut where the source was, so that its outputs are those to compare.
        expected = outputs_of(source.inputs, source.outputs, rebuilt.to_source(arrays))
    return difference(expected, outputs_of(result.inputs, result.outputs, arrays))


def _twins(rebuilt: Rebuilt, dtype: str) -> list[keras.Model]:
    return [twin(rebuilt.source, dtype, rebuilt.expected), twin(rebuilt.model, dtype)]


def _equal_in_float64(rebuilt: Rebuilt, arrays: Outputs, again: Again) -> bool:
    wide = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays]
    try:
        if _gap(rebuilt, _twins(rebuilt, "float64"), wide).max_rel <= TOLERANCE_64:
            return True
        if again is None:
            return False
        redone = again(twin(rebuilt.source, "float64"))
        gap = _gap(redone, (redone.source, redone.model), wide)
        return gap.max_rel <= TOLERANCE_64 and _same_weights(rebuilt.model, redone.model)
    except (InputError, TypeError, ValueError, tf.errors.OpError):
        return False  # a layer that computes in float32 alone: float32 has decided


def _same_weights(model: keras.Model, wide: keras.Model) -> bool:
    """Whether the weights of a model are those of its float64 twin, but for rounding."""
    pairs = list(zip(model.get_weights(), wide.get_weights()))
    shapes = [tuple(weight.shape for weight in one.weights) for one in (model, wide)]
    return shapes[0] == shapes[1] and all(difference([exact], [own]).max_rel <= _ULPS for own, exact in pairs)


def _first_difference(
    rebuilt: Rebuilt, source: keras.Model, arrays: Outputs, tolerance: float, prefix: str = ""
) -> str:
    """Returns which layer of the source is the first, in order of the graph, whose output differs."""
    result, pairs = rebuilt.models[id(source)], rebuilt.pairs[id(source)]
    top = source is rebuilt.source
    inputs, given = (rebuilt.inputs, rebuilt.to_source(arrays)) if top else (source.inputs, arrays)
    old = outputs_of(inputs, [t for pair in pairs for t in tf.nest.flatten(pair.call.outputs)], given)
    new = outputs_of(result.inputs, [t for pair in pairs for t in pair.outputs], arrays)
    for pair in pairs:
        layer, count = pair.call.layer, len(pair.outputs)
        here, there = old[:count], new[:count]
        old, new = old[count:], new[count:]
        if isinstance(layer, keras.layers.InputLayer) or difference(here, there).max_rel <= tolerance:
            continue
        if is_graph(layer) and id(layer) in rebuilt.pairs:
            inner = outputs_of(inputs, pair.call.inputs, given)
            return _first_difference(rebuilt, layer, inner, tolerance, f"{prefix}{layer.name}/")
        return f"layer {prefix + layer.name!r}"
    return f"an output of model {prefix + source.name!r}"


def _array(value: Any) -> np.ndarray:
    return (tf.cast(value, tf.float32) if value.dtype == tf.bfloat16 else value).numpy()


def _is_low(model: keras.Model) -> bool:
    return any(layer.dtype_policy.name in LOW_PRECISION for _, layer in all_layers(model))


def _is_double(model: keras.Model) -> bool:
    return all(tensor.dtype == tf.float64 for tensor in [*model.inputs, *model.outputs])

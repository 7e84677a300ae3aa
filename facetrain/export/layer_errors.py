"""Which layers lose accuracy in int8, and which of them go on computing in float."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.errors import InputError, did_you_mean
from facetrain.export.parity import ExportError

_NUM_BATCHES = 8
_READ = re.compile(r"/ReadVariableOp\d*$")
_OUTPUT_TENSOR, OUTPUT_NAME = "StatefulPartitionedCall", "embedding"


@dataclass(frozen=True)
class LayerError:
    """What one quantised layer differs from itself in float, given the same quantised input.

    Attributes:
        layer: path of the Keras layer, by which it can be kept in float; the last one is ``embedding``.
        operation: of TensorFlow Lite.
        steps: root of the mean squared error, in steps of the quantised output; rounding alone gives 0.29.
        rms: the same in units of the output.
        largest: mean over the images of the largest error, in units of the output.
        tensor: name of the output in the TensorFlow Lite model.
    """

    layer: str
    operation: str
    steps: float
    rms: float
    largest: float
    tensor: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the error as JSON values."""
        return asdict(self)


class LayerErrors:
    """Compares each layer of an int8 model with the same layer in float, on some representative images.

    Args:
        converter: with optimisations and a representative data set; its settings are spoilt.
        batches: returns the inputs of one call after the other; the first 8 are compared on.
        model_name: name of the Keras model, which the names of its layers begin with.
    """

    def __init__(
        self,
        converter: tf.lite.TFLiteConverter,
        batches: Callable[[], Iterable[Sequence[np.ndarray]]],
        model_name: str,
    ):
        self._model_name = model_name
        self._kept: frozenset[str] = frozenset()
        self._debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=lambda: itertools.islice(batches(), _NUM_BATCHES)
        )

    def measure(self) -> list[LayerError]:
        """Returns the error of each quantised layer, the largest in steps first.

        Raises:
            ExportError: if a layer is quantised that should have been kept in float.
        """
        self._debugger.run()
        dump = io.StringIO()
        self._debugger.layer_statistics_dump(dump)
        rows = csv.DictReader(io.StringIO(dump.getvalue()))
        errors = sorted((self._error_of(row) for row in rows), key=lambda error: -error.steps)
        quantised = sorted({error.layer for error in errors if error.tensor in self._kept})
        if quantised:
            raise ExportError(f"TensorFlow Lite does not keep {', '.join(quantised[:3])} in float")
        return errors

    def keep_float(self, patterns: Sequence[str]) -> bytes:
        """Returns the model with some layers in float32; ``measure`` tells of the others from then on.

        Args:
            patterns: shell patterns of layers, such as ``stage1*``, or of operations, such as ``PRELU``.

        Raises:
            InputError: if a pattern fits nothing, or nothing is left to quantise.
        """
        errors = self.measure()
        for pattern in patterns:
            if not any(_fits(error, [pattern]) for error in errors):
                names = sorted({name for error in errors for name in (error.layer, error.operation)})
                hint = did_you_mean(pattern, names) or f"; layers are {', '.join(names[:8])}, and so on"
                raise InputError(f"no quantised layer or operation is called {pattern!r}{hint}")
        kept = [error.tensor for error in errors if _fits(error, patterns)]
        if len(kept) == len(errors):
            raise InputError(f"{', '.join(patterns)} keeps every layer in float; export as 'tflite' instead")
        self._kept = frozenset(kept)
        self._debugger.options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=kept)
        return self._debugger.get_nondebug_quantized_model()

    def _error_of(self, row: dict[str, str]) -> LayerError:
        rms, scale = math.sqrt(float(row["mean_squared_error"])), float(row["scale"])
        return LayerError(
            layer=_layer_of(row["tensor_name"], self._model_name),
            operation=row["op_name"],
            steps=rms / scale if scale else 0.0,
            rms=rms,
            largest=float(row["max_abs_error"]),
            tensor=row["tensor_name"],
        )


def _fits(error: LayerError, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in (error.layer, error.operation) for pattern in patterns)


def _layer_of(tensor: str, model_name: str) -> str:
    """Returns the path of a layer: names of fused operations are joined by ``;``, the one that computes comes last.

    Where a bias is read, the bias comes last, as an operation of that layer too.
    """
    parts = _READ.sub("", tensor.split(";")[-1]).split("/")
    if parts[0].startswith(_OUTPUT_TENSOR):
        return OUTPUT_NAME
    parts = parts[1:] if parts[0] == model_name and len(parts) > 1 else parts
    return "/".join(parts[:-1] if len(parts) > 1 else parts)

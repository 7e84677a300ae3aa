"""Reading and writing all state of a recogniser by name, loudly."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.models.array_file import VariableArray
from facetrain.models.head_change import optimizer_variables
from facetrain.models.precision import LOSS_SCALING_VARIABLES
from facetrain.models.recognizer import FaceRecognizer
from facetrain.models.shards import ShardArray, array_of, assign_whole, whole_shape

_LOSS_SCALING = {f"optimizer/{name}" for name in LOSS_SCALING_VARIABLES}
logger = logging.getLogger(__name__)


def named_variables(recognizer: FaceRecognizer) -> dict[str, tf.Variable]:
    """Returns everything that a run needs to go on exactly: weights, optimiser slots, averages, and statistics.

    Names are stable across processes: group, then the variable's own name, numbered where it occurs again.
    """
    groups: list[tuple[str, Iterable[tf.Variable]]] = [
        ("embedding", recognizer.embedding_model.variables),
        ("head", recognizer.head.variables),
        ("extra", [variable for layer in recognizer.extra_layers for variable in layer.variables]),
    ]
    if recognizer.optimizer is not None:
        groups.append(("optimizer", optimizer_variables(recognizer.optimizer)))
    groups.append(("loss", getattr(recognizer.margin_loss, "variables", ())))
    if recognizer.average is not None:
        groups.append(("average", recognizer.average.shadows))
    return _numbered((f"{group}/{variable.name}", variable) for group, variables in groups for variable in variables)


def read_state(recognizer: FaceRecognizer) -> dict[str, np.ndarray]:
    """Returns the values of ``named_variables`` as arrays; of a sharded head all rows, for which all ranks call it."""
    return {name: np.asarray(array) for name, array in stream_state(recognizer).items()}


def stream_state(recognizer: FaceRecognizer) -> dict[str, VariableArray | ShardArray]:
    """As ``read_state``, but each value is read only when it is used, and large ones in blocks of rows."""
    return {name: array_of(variable) for name, variable in named_variables(recognizer).items()}


def common_variables(recognizer: FaceRecognizer) -> list[tf.Variable]:
    """Returns what is the same on all ranks: ``named_variables`` without the shards that each has for itself."""
    return [variable for variable in named_variables(recognizer).values() if not hasattr(variable, "shard")]


def write_state(recognizer: FaceRecognizer, arrays: Mapping[str, Any], origin: str) -> None:
    """Assigns ``arrays`` to the variables of the same names; nothing is assigned unless everything fits.

    Checkpoints of earlier versions lack the state of float16's loss scaling, which then begins anew.

    Args:
        recognizer: compiled recogniser.
        arrays: values by name, as ``read_state`` or ``ArrayFile`` give them.
        origin: where the arrays come from, for the message.
    Raises:
        InputError: if a name is missing or unexpected, or a shape differs.
    """
    variables = named_variables(recognizer)
    if _LOSS_SCALING & variables.keys() and not _LOSS_SCALING & set(arrays):
        logger.warning("%s: holds no state of the loss scaling, which begins anew", origin)
        variables = {name: variable for name, variable in variables.items() if name not in _LOSS_SCALING}
    _write(variables, arrays, f"{origin}: expected the state of this model")


def embedding_weights(model: tf.keras.Model) -> dict[str, VariableArray]:
    """Returns the weights of an embedding model by the names that they have in ``read_state``, read when used."""
    return {name: VariableArray(variable) for name, variable in _embedding_variables(model).items()}


def load_embedding_weights(model: tf.keras.Model, arrays: Mapping[str, Any], origin: str) -> None:
    """Assigns the weights of an embedding model; nothing is assigned unless everything fits.

    Args:
        model: an embedding model.
        arrays: weights by name, as of ``embedding_weights`` or a checkpoint; names without ``embedding/`` are not read.
        origin: where they come from, for the message.
    Raises:
        InputError: if a weight is missing or unexpected, or a shape differs; names them.
    """
    own = {name: array for name, array in arrays.items() if name.startswith("embedding/")}
    _write(_embedding_variables(model), own, f"{origin}: expected the weights of this embedding model")


def _embedding_variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    # By layer: variables of a model that was loaded from a file have lost the layer in their own names.
    return _numbered(
        (f"embedding/{layer.name}/{variable.name.removeprefix(f'{layer.name}/')}", variable)
        for layer in model.layers
        for variable in layer.variables
    )


def _numbered(named: Iterable[tuple[str, tf.Variable]]) -> dict[str, tf.Variable]:
    """Returns variables by name, with a number behind a name that occurs again."""
    found: dict[str, tf.Variable] = {}
    for long, variable in named:
        base = long.split(":")[0]
        name, again = base, 1
        while name in found:
            again += 1
            name = f"{base}#{again}"
        found[name] = variable
    return found


def _write(variables: Mapping[str, tf.Variable], arrays: Mapping[str, Any], expected: str) -> None:
    problems = [f"{name} is missing" for name in variables if name not in arrays]
    problems += [f"{name} is not part of this model" for name in arrays if name not in variables]
    problems += [
        f"{name} has shape {tuple(arrays[name].shape)}, the model has {whole_shape(variable)}"
        for name, variable in variables.items()
        if name in arrays and tuple(arrays[name].shape) != whole_shape(variable)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise InputError(f"{expected}, but {problems[0]}{more}; it belongs to another model")
    for name, variable in variables.items():
        assign_whole(variable, arrays[name])

"""Reading and writing all state of a recogniser by name, loudly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.models.array_file import VariableArray, assign
from facetrain.models.head_change import optimizer_variables
from facetrain.models.recognizer import FaceRecognizer


def named_variables(recognizer: FaceRecognizer) -> dict[str, tf.Variable]:
    """Returns everything that a run needs to go on exactly: weights, optimiser slots, averages, and statistics.

    Names are stable across processes: group, then the variable's own name, numbered where it occurs again.
    """
    groups: list[tuple[str, Iterable[tf.Variable]]] = [
        ("embedding", recognizer.embedding_model.variables),
        ("head", recognizer.head.variables),
    ]
    if recognizer.optimizer is not None:
        groups.append(("optimizer", optimizer_variables(recognizer.optimizer)))
    groups.append(("loss", getattr(recognizer.margin_loss, "variables", ())))
    if recognizer.average is not None:
        groups.append(("average", recognizer.average.shadows))
    found: dict[str, tf.Variable] = {}
    for group, variables in groups:
        for variable in variables:
            base = f"{group}/{variable.name.split(':')[0]}"
            name, again = base, 1
            while name in found:
                again += 1
                name = f"{base}#{again}"
            found[name] = variable
    return found


def read_state(recognizer: FaceRecognizer) -> dict[str, np.ndarray]:
    """Returns the values of ``named_variables`` as arrays."""
    return {name: variable.numpy() for name, variable in named_variables(recognizer).items()}


def stream_state(recognizer: FaceRecognizer) -> dict[str, VariableArray]:
    """As ``read_state``, but each value is read only when it is used, and large ones in blocks of rows."""
    return {name: VariableArray(variable) for name, variable in named_variables(recognizer).items()}


def write_state(recognizer: FaceRecognizer, arrays: Mapping[str, Any], origin: str) -> None:
    """Assigns ``arrays`` to the variables of the same names; nothing is assigned unless everything fits.

    Args:
        recognizer: compiled recogniser.
        arrays: values by name, as ``read_state`` or ``ArrayFile`` give them.
        origin: where the arrays come from, for the message.
    Raises:
        InputError: if a name is missing or unexpected, or a shape differs.
    """
    variables = named_variables(recognizer)
    problems = [f"{name} is missing" for name in variables if name not in arrays]
    problems += [f"{name} is not part of this model" for name in arrays if name not in variables]
    problems += [
        f"{name} has shape {tuple(arrays[name].shape)}, the model has {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and tuple(arrays[name].shape) != tuple(variable.shape)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise InputError(
            f"{origin}: expected the state of this model, but {problems[0]}{more}; it belongs to another model"
        )
    for name, variable in variables.items():
        assign(variable, arrays[name])

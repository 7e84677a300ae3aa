"""Inputs of another size, a fixed batch, fewer outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow import keras

from facetrain.errors import InputError, did_you_mean
from facetrain.surgery.graph import Graph, check_model
from facetrain.surgery.layer_copy import Config
from facetrain.surgery.operation import surgery
from facetrain.surgery.rebuild import Rebuild, Rebuilt


def _is_taken(model: keras.Model, shape: Any) -> bool:
    """Whether a model takes inputs of a fixed size as it is, so that outputs can be compared."""
    check_model(model)
    shapes = _shapes(model, shape)
    olds = {layer.name: tensor.shape[1:] for layer, tensor in zip(model._input_layers, model.inputs)}
    fixed = all(None not in tuple(shapes.get(name, old)) for name, old in olds.items())
    return fixed and all(olds[name].is_compatible_with(sides) for name, sides in shapes.items())


@surgery(exact=_is_taken)
def set_input_shape(model: keras.Model, shape: int | Sequence[Any] | Mapping[str, Sequence[Any]]) -> Rebuilt:
    """Gives a model inputs of another size, with the same weights.

    Equal outputs are proven where the source takes inputs of the new size as well.

    Args:
        model: a functional or sequential model; stays as it is.
        shape: without the batch: ``112`` (a side of square images), ``(112, 96, 3)``, ``(None, None, 3)``, or for
            several inputs a mapping from their names.
    Returns:
        A functional model, not compiled; models inside it take what they are given.
    Raises:
        InputError: if a layer has weights for the old size alone, such as a Dense after a Flatten.
    """
    check_model(model)
    shapes = _shapes(model, shape)
    changes: dict[str, Config] = {}
    for layer in model._input_layers:
        if layer.name in shapes:
            batch = layer.get_config()["batch_input_shape"][0]
            changes[layer.name] = {"batch_input_shape": (batch, *shapes[layer.name])}
    return Rebuild(model, follow_shapes=True).run(inputs=changes)


@surgery()
def set_batch_size(model: keras.Model, size: int | None) -> Rebuilt:
    """Fixes the number of examples that a model takes at once, or frees it.

    Args:
        model: a functional or sequential model; stays as it is.
        size: at least 1; None for any number.
    Returns:
        A functional model, not compiled.
    Raises:
        InputError: if the size is below 1.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InputError(f"size of a batch must be a whole number of at least 1, or None, received {size!r}")
    check_model(model)
    shapes = {layer.name: layer.get_config()["batch_input_shape"] for layer in model._input_layers}
    changes = {name: {"batch_input_shape": (size, *shape[1:])} for name, shape in shapes.items()}
    return Rebuild(model).run(inputs=changes)


@surgery()
def prune_outputs(model: keras.Model, keep: str | int | Sequence[str | int]) -> Rebuilt:
    """Keeps some outputs of a model, and what they are computed from.

    Args:
        model: a functional or sequential model; stays as it is.
        keep: names (``model.output_names``) or numbers of outputs, in the order that they shall have.
    Returns:
        A functional model, not compiled; inputs that nothing depends on any more are gone.
    Raises:
        InputError: for an unknown output, or if none is kept.
    """
    check_model(model)
    wanted = [keep] if isinstance(keep, (str, int)) else list(keep)
    if not wanted:
        raise InputError(f"prune_outputs must keep at least one of {', '.join(model.output_names)}")
    tensors = [model.outputs[_output_index(model, one)] for one in wanted]
    return Rebuild(model).run(outputs=tensors if len(tensors) > 1 else tensors[0])


@surgery()
def cut_at(model: keras.Model, layer: str) -> Rebuilt:
    """Ends a model at one of its layers.

    Args:
        model: a functional or sequential model; stays as it is.
        layer: name of a layer, whose output becomes that of the new model.
    Returns:
        A functional model, not compiled; inputs that nothing depends on any more are gone.
    Raises:
        InputError: for an unknown layer, or one that is called more than once.
    """
    calls = [call for call in Graph(model).calls if call.layer.name == layer]
    if len(calls) != 1:
        hint = did_you_mean(layer, [one.name for one in model.layers])
        what = f"is called {len(calls)} times" if calls else f"is not there{hint}"
        raise InputError(f"model {model.name!r} cannot be cut at layer {layer!r}: it {what}")
    return Rebuild(model).run(outputs=calls[0].outputs)


def _shapes(model: keras.Model, shape: Any) -> dict[str, tuple[Any, ...]]:
    names = [layer.name for layer in model._input_layers]
    if not isinstance(shape, Mapping):
        if len(names) != 1:
            raise InputError(f"model {model.name!r} has inputs {', '.join(names)}: give a mapping from their names")
        shape = {names[0]: shape}
    shapes = {}
    for name, wanted in shape.items():
        if name not in names:
            raise InputError(f"model {model.name!r} has no input {name!r}{did_you_mean(name, names)}")
        old = tuple(model.inputs[names.index(name)].shape)[1:]
        if isinstance(wanted, int) and not isinstance(wanted, bool) and len(old) == 3:
            wanted = (wanted, wanted, old[2])
        sides = tuple(wanted) if isinstance(wanted, (list, tuple)) else (0,)
        if len(sides) != len(old) or any(
            side is not None and (not isinstance(side, int) or side < 1) for side in sides
        ):
            raise InputError(f"shape of input {name!r} must be like {old}, without the batch, received {wanted!r}")
        shapes[name] = sides
    return shapes


def _output_index(model: keras.Model, wanted: str | int) -> int:
    names = model.output_names
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < len(names):
        return wanted
    if wanted in names:
        return names.index(wanted)
    hint = did_you_mean(str(wanted), names)
    raise InputError(f"model {model.name!r} has no output {wanted!r}{hint or '; it has ' + ', '.join(names)}")

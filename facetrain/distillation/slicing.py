"""A student that begins as a slice of a wider teacher of its own kind."""

from __future__ import annotations

from tensorflow import keras

from facetrain.errors import InputError

_FLATTENS = (keras.layers.Flatten, keras.layers.Reshape)


def slice_weights(teacher: keras.Model, student: keras.Model) -> int:
    """Gives each weight of a narrower network the first channels of the same weight of a wider one.

    The same channels are kept by a layer and by those that read it, so that each remaining path computes what it did;
    what the missing channels added is missing.

    Args:
        teacher: the wider network.
        student: of the same layers, with at most as many channels everywhere; it is changed.
    Returns:
        number of weights that were given.
    Raises:
        InputError: if a layer is missing in the teacher or has fewer channels there, or the networks turn a feature
            map into a vector, in which channels do not stand together.
    """
    theirs = {layer.name: layer for layer in teacher.layers}
    found = []
    for layer in student.layers:
        if isinstance(layer, _FLATTENS) and layer.output_shape != layer.input_shape and _mixes(layer):
            raise InputError(f"distillation.slice: layer {layer.name!r} flattens a feature map; take the neck 'gdc'")
        if not layer.weights:
            continue
        if layer.name not in theirs or len(theirs[layer.name].weights) != len(layer.weights):
            raise InputError(
                f"distillation.slice: the teacher has no layer {layer.name!r} like the student's: only networks of one "
                "kind that differ in width can be cut"
            )
        found += list(zip(layer.weights, theirs[layer.name].weights))
    for ours, wide in found:
        if len(ours.shape) != len(wide.shape) or any(small > large for small, large in zip(ours.shape, wide.shape)):
            raise InputError(
                f"distillation.slice: {ours.name} has shape {list(ours.shape)}, the teacher's {list(wide.shape)}: the "
                "student must be the narrower one"
            )
    for ours, wide in found:
        ours.assign(wide.numpy()[tuple(slice(0, side) for side in ours.shape)])
    return len(found)


def _mixes(layer: keras.layers.Layer) -> bool:
    """Whether a layer makes one axis of several that are longer than 1."""
    return sum(1 for side in layer.input_shape[1:] if side != 1) > 1

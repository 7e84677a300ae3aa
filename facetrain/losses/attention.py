"""Attention transfer: where in the image a student's feature maps are large is compared with a teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.losses.base import at_least_float32
from facetrain.losses.distances import unit_vectors
from facetrain.losses.distillation import TeacherLoss
from facetrain.serialization import serializable


@serializable
class AttentionTeacherLoss(TeacherLoss):
    """Squared distance between the attention maps of student and teacher, summed over pairs of layers.

    The map of a feature map [H, W, C] is the sum over channels of the squares, as one vector of length 1. Of two maps
    of different size the larger is averaged down. Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928 (activation
    based, p = 2; squared as in the authors' code, summed over places where that takes the mean).

    Args:
        layers: pairs (layer of the student, layer of the teacher), at least one; their outputs are [B, H, W, C].
        name: name of the loss.
    Call arguments: as in TeacherLoss; "features" of the outputs and of each teacher hold the outputs of layers by name.
    Raises: InputError if ``layers`` are no pairs of names, or outputs lack them.
    """

    def __init__(self, layers: Sequence[Sequence[str]], name: str | None = None):
        super().__init__(name)
        self.layers = checked_pairs(layers)

    def compare(self, taught: Mapping[str, Any], outputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns the distance [B]."""
        parts = []
        for ours, theirs in self.layers:
            student = _features(outputs, ours, self.name)
            teacher = tf.stop_gradient(tf.cast(_features(taught, theirs, self.name), student.dtype))
            size = [min(student.shape[axis], teacher.shape[axis]) for axis in (1, 2)]
            difference = attention_map(student, size) - attention_map(teacher, size)
            parts.append(tf.reduce_sum(tf.square(difference), axis=1))
        return tf.add_n(parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"layers": [list(pair) for pair in self.layers], "name": self.name}


def attention_map(features: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Returns the attention maps [B, h * w] of feature maps [B, H, W, C], of length 1.

    Args:
        features: float.
        size: (h, w); where they differ from (H, W), places are averaged over areas.
    """
    energy = tf.reduce_sum(tf.square(features), axis=-1, keepdims=True)
    strides = [side // small for side, small in zip(features.shape[1:3], size)]
    if list(features.shape[1:3]) == [small * stride for small, stride in zip(size, strides)]:
        energy = tf.nn.avg_pool2d(energy, strides, strides, "VALID")
    else:
        energy = tf.image.resize(energy, size, method="bilinear", antialias=True)
    return unit_vectors(tf.reshape(energy, [-1, size[0] * size[1]]))


def checked_pairs(layers: Any) -> tuple[tuple[str, str], ...]:
    """Returns pairs of layer names; raises InputError for anything else."""
    is_list = isinstance(layers, (list, tuple)) and len(layers) > 0
    for pair in layers if is_list else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
            raise InputError(
                "layers of the loss 'attention' must be pairs of a student's and a teacher's layer, such as "
                f"[[stage3_add, stage3_add]], received {layers!r}"
            )
    return tuple((ours, theirs) for ours, theirs in layers)


def _features(holder: Mapping[str, Any], layer: str, name: str) -> tf.Tensor:
    features = holder.get("features") or {}
    if layer not in features:
        raise InputError(f"{name}: there is no output of layer {layer!r}; only Keras teachers have layers to look at")
    found = at_least_float32(features[layer])
    if len(found.shape) != 4:
        raise InputError(f"{name}: layer {layer!r} should return [B, H, W, C], it returns {list(found.shape)}")
    return found

"""Partial FC: training against a sample of the classes, in time and memory that do not grow with their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from facetrain.errors import InputError
from facetrain.layers.cosine import SubCenterCosineDense, cosine_matrix, whole_number
from facetrain.layers.permutation import permuted
from facetrain.serialization import serializable


class ClassSample(NamedTuple):
    """Some classes, and where the labels of a batch stand among them.

    Attributes:
        classes: [S] int32, distinct.
        positions: [B] int32, ``classes[positions] == labels``.
    """

    classes: tf.Tensor
    positions: tf.Tensor

    def positions_of(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns where other labels [B] stand among the classes; all must be there."""
        return positions_in(self.classes, tf.cast(labels, tf.int32))

    def part(self, rows: slice) -> ClassSample:
        """Returns the same classes with the positions of some examples."""
        return self._replace(positions=self.positions[rows])

    def for_loss(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the outputs of a recogniser as the loss needs them: as they are."""
        return outputs

    def own(self, values: tf.Tensor) -> tf.Tensor:
        """Returns those of the losses that belong to this process: all of them."""
        return values

    def hits(self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """Returns whether the class with the greatest cosine is that of ``labels`` [B]; boolean [B]."""
        best = tf.argmax(outputs["logits"], axis=1, output_type=tf.int32)
        return tf.gather(self.classes, best) == tf.cast(labels, tf.int32)


def sample_classes(present: tf.Tensor, num_classes: int, num_sampled: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns all classes that are present and, up to ``num_sampled``, others drawn uniformly without replacement.

    Args:
        present: [B] int32 labels below ``num_classes``, repeated as they come.
        num_classes: C. For one shard of a larger head: its own number of classes, with labels counted from its first.
        num_sampled: how many classes to return, at most C; more if more are present.
        seed: [2] int64; the same seed draws the same.
    Returns:
        [S] int32, distinct: those present first, in the order of their first example.
    """
    # The first num_sampled of a permutation hold enough others even if they hold everything that is present, and
    # the first occurrences in this row are those present, then the others in their random order.
    candidates = permuted(num_sampled, num_classes, seed)
    distinct, places = tf.unique(tf.concat([present, candidates], axis=0))
    num_present = tf.reduce_max(tf.concat([[-1], places[: tf.shape(present)[0]]], axis=0)) + 1
    return distinct[: tf.maximum(num_sampled, num_present)]


def positions_in(classes: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns where ``labels`` [B] stand in the distinct ``classes`` [S]; all must be there."""
    _, places = tf.unique(tf.concat([classes, labels], axis=0))
    return places[tf.shape(classes)[0] :]


@serializable
class PartialCosineDense(SubCenterCosineDense):
    """Cosines with a sample of the classes in training, with all of them otherwise.

    A sample holds all classes of the batch and random others. Only its rows are read, have a gradient and are
    updated; rows and optimiser slots of other classes stay bit for bit, as with MXNet's ``lazy_update``. The sample is
    a pure function of seed and step, so a run that is resumed draws as it would have.
    Reference: An et al., Partial FC, CVPR 2022, arXiv 2203.15565.

    Args:
        num_classes: number of classes C, at least 1.
        sample_rate: share of the classes in a sample, in (0, 1]; 0.1 if ``num_sampled`` is not given either.
        num_sampled: number of classes in a sample instead, at most C.
        k: centres of each class, as in SubCenterCosineDense.
        seed: of the samples.
        centres_initializer, matmul_dtype, **kwargs: as in CosineDense.
    Call arguments: embedding [B, D]; sample, a ClassSample, in training.
    Returns: [B, C] cosines; with a sample {"logits": [B, S] cosines, "labels": [B] positions in the sample}.
    Weights: as in SubCenterCosineDense.
    Raises: InputError if an argument is outside its range, or both a rate and a number are given.
    """

    # Whoever trains this head draws a sample for the labels of a step and hands it to the call.
    needs_labels = True

    def __init__(
        self,
        num_classes: int,
        sample_rate: float | None = None,
        num_sampled: int | None = None,
        k: int = 1,
        seed: int = 0,
        centres_initializer: Any = None,
        matmul_dtype: str = "float32",
        **kwargs: Any,
    ):
        super().__init__(num_classes, k, centres_initializer, matmul_dtype, **kwargs)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed must be a whole number of at least 0, received {seed!r}")
        self.seed = seed
        self.num_sampled = _sample_size(self.num_classes, sample_rate, num_sampled)

    def build(self, input_shape: Any) -> None:
        """Creates the centres, and asks optimisers to update nothing but the rows that have a gradient."""
        super().build(input_shape)
        self.centres.updates_rows_only = True

    def sample(self, labels: tf.Tensor, step: tf.Tensor, present: tf.Tensor | None = None) -> ClassSample:
        """Draws the sample of a training step.

        Args:
            labels: [B] integers, the classes of the examples.
            step: scalar, number of updates made so far.
            present: labels that must be in the sample, where ``labels`` are a part of them: those of all replicas.
        """
        labels = tf.cast(labels, tf.int32)
        present = labels if present is None else tf.cast(present, tf.int32)
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)])
        classes = sample_classes(present, self.num_classes, self.num_sampled, seed)
        return ClassSample(classes, positions_in(classes, labels))

    def call(self, embedding: tf.Tensor, sample: ClassSample | None = None) -> Any:
        """Returns cosines, and the labels that belong to them if they are those of a sample."""
        if sample is None:
            return super().call(embedding)
        # Reads these rows alone, and so the gradient is of these rows alone.
        centres = tf.gather(self.centres, sample.classes)
        return {"logits": cosine_matrix(embedding, centres, self.matmul_dtype), "labels": sample.positions}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; a rate as the number that it gives."""
        return {**super().get_config(), "num_sampled": self.num_sampled, "seed": self.seed}


def _sample_size(num_classes: int, sample_rate: float | None, num_sampled: int | None) -> int:
    if sample_rate is not None and num_sampled is not None:
        raise InputError(
            f"a sample has a rate or a number, received sample_rate={sample_rate!r} and num_sampled={num_sampled!r}: "
            "leave one out"
        )
    if num_sampled is not None:
        if whole_number("num_sampled", num_sampled) > num_classes:
            raise InputError(f"num_sampled must be at most the {num_classes} classes, received {num_sampled}")
        return int(num_sampled)
    rate = 0.1 if sample_rate is None else sample_rate
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.0 < rate <= 1.0:
        raise InputError(f"sample_rate must be in (0, 1], received {rate!r}")
    return max(1, int(rate * num_classes))

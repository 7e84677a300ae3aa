"""Sharded Partial FC: every process of a training has the centres of its own classes, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from facetrain.collectives import Collectives
from facetrain.errors import InputError
from facetrain.layers.cosine import cosine_matrix
from facetrain.layers.partial import PartialCosineDense, positions_in, sample_classes
from facetrain.serialization import serializable

_BLOCK = 1024


def shard_bounds(rows: int, number: int, shards: int) -> tuple[int, int]:
    """Returns the first row of a shard and the first of the next one: as even as can be, the larger ones first."""
    size, larger = divmod(rows, shards)
    return number * size + min(number, larger), (number + 1) * size + min(number + 1, larger)


class Shard(NamedTuple):
    """Which rows of a larger variable the variable of this process is.

    Attributes:
        first, stop: the rows, from the first to before the last.
        rows: how many the whole has.
        ranks: the processes that have all of it.
    """

    first: int
    stop: int
    rows: int
    ranks: Collectives

    @classmethod
    def of(cls, rows: int, ranks: Collectives) -> Shard:
        """Returns the shard of this process."""
        return cls(*shard_bounds(rows, ranks.rank, ranks.world), rows, ranks)

    @property
    def size(self) -> int:
        """Number of rows of this process."""
        return self.stop - self.first


class ShardedSample(NamedTuple):
    """Some classes of this rank, and where the labels of all ranks' examples stand among them.

    Attributes:
        classes: [S] int32, distinct rows of this rank's centres.
        positions: [G] int32 for the examples of all ranks, -1 where another rank has the class.
        first: the class of row 0.
        ranks: the processes that share the classes.
    """

    classes: tf.Tensor
    positions: tf.Tensor
    first: int
    ranks: Collectives

    def positions_of(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns where other labels stand: [B] of this rank in, [G] of all ranks out; all must be in some sample."""
        return positions_on_shard(self.classes, self.ranks.gather_values(tf.cast(labels, tf.int32)) - self.first)

    def part(self, rows: slice) -> ShardedSample:
        """Returns the same classes with the positions of some examples of each rank."""
        of_ranks = tf.reshape(self.positions, [self.ranks.world, -1])
        return self._replace(positions=tf.reshape(of_ranks[:, rows], [-1]))

    def for_loss(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the outputs of a recogniser with the processes among which the loss is to be computed."""
        return {**outputs, "ranks": self.ranks}

    def own(self, values: tf.Tensor) -> tf.Tensor:
        """Returns those of the values [G] of all examples that belong to this rank's, [B]."""
        return tf.reshape(values, [self.ranks.world, -1])[self.ranks.rank]

    def hits(self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """Returns whether no class of any rank has a greater cosine than that of ``labels`` [B]; boolean [B]."""
        positions, cosines = self.positions_of(labels), outputs["logits"]
        highest = self.ranks.max(tf.reduce_max(cosines, axis=1))
        target = tf.gather(cosines, tf.maximum(positions, 0), batch_dims=1)
        found = tf.where(positions >= 0, target, tf.constant(-float("inf"), target.dtype))
        return self.own(self.ranks.max(found) >= highest)


def positions_on_shard(classes: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns where ``labels`` [G] stand in the distinct ``classes`` [S], -1 for those that do not."""
    places = positions_in(classes, labels)  # behind the classes for what is none of them
    return tf.where(places < tf.shape(classes)[0], places, -1)


@serializable
class ShardedCosineDense(PartialCosineDense):
    """PartialCosineDense whose classes are divided among the processes of a training.

    Each rank creates, samples, trains and keeps slots for C / world centres. In a step embeddings and labels of all
    ranks are joined, each rank computes their cosines with its own sample, and the softmax runs over all samples. On
    one process it is PartialCosineDense with other first centres: those here do not depend on the number of ranks.
    Reference: An et al., Partial FC, CVPR 2022, arXiv 2203.15565.

    Args:
        num_classes: number of classes C of all ranks, at least one for each rank.
        sample_rate, num_sampled, k: as in PartialCosineDense, for all ranks together; each rank samples its share.
        seed: of the samples and of the first centres, which are normal with a standard deviation of 0.01.
        matmul_dtype, **kwargs: as in CosineDense.
        collectives: how the ranks talk in a step; one process by default.
    Call arguments: embedding [B, D] of this rank; sample, a ShardedSample, in training.
    Returns: with a sample, of the G examples of all ranks, {"logits": [G, S] cosines with the sample of this rank,
        "labels": [G] positions in it or -1, "embedding": [G, D]}; without one, on one process alone, [B, C] cosines.
    Weights: ``centres`` [C / world, D], or [C / world, k, D]; their attribute ``shard`` says which they are.
    Raises: InputError if an argument is outside its range, or there are fewer classes than ranks.
    """

    def __init__(
        self,
        num_classes: int,
        sample_rate: float | None = None,
        num_sampled: int | None = None,
        k: int = 1,
        seed: int = 0,
        matmul_dtype: str = "float32",
        collectives: Collectives | None = None,
        **kwargs: Any,
    ):
        super().__init__(num_classes, sample_rate, num_sampled, k, seed, None, matmul_dtype, **kwargs)
        self.ranks = Collectives() if collectives is None else collectives
        if not isinstance(self.ranks, Collectives):
            raise InputError(f"collectives come from the runtime, not from a configuration; received {collectives!r}")
        if self.num_classes < self.ranks.world:
            raise InputError(
                f"a sharded head needs a class for each of the {self.ranks.world} ranks, received "
                f"{self.num_classes} classes: use the head 'partial'"
            )
        self.shard = Shard.of(self.num_classes, self.ranks)
        self.centres_initializer = _NormalRows(self.seed, self.shard.first)

    def centres_shape(self, size: int) -> tuple[int, ...]:
        """Returns the shape of this rank's centres."""
        return (self.shard.size, *super().centres_shape(size)[1:])

    def build(self, input_shape: Any) -> None:
        """Creates the centres of this rank."""
        super().build(input_shape)
        if self.ranks.world > 1:
            self.centres.shard = self.shard

    def sample(self, labels: tf.Tensor, step: tf.Tensor, present: tf.Tensor | None = None) -> ShardedSample:
        """Draws this rank's part of the sample of a training step.

        Args:
            labels: [B] integers, the classes of this rank's examples.
            step: scalar, number of updates made so far.
            present: labels that must be in the sample of some rank: those of all ranks; by default ``labels`` of them.
        """
        everyone = self.ranks.gather_values(tf.cast(labels, tf.int32)) - self.shard.first
        present = everyone if present is None else tf.cast(present, tf.int32) - self.shard.first
        present = tf.boolean_mask(present, (present >= 0) & (present < self.shard.size))
        seed = tf.stack([tf.constant(self.seed + self.shard.first, tf.int64), tf.cast(step, tf.int64)])
        wanted = max(1, Shard.of(self.num_sampled, self.ranks).size)
        classes = sample_classes(present, self.shard.size, wanted, seed)
        return ShardedSample(classes, positions_on_shard(classes, everyone), self.shard.first, self.ranks)

    def call(self, embedding: tf.Tensor, sample: ShardedSample | None = None) -> Any:
        """Returns cosines, and what belongs to them if they are those of a sample."""
        if sample is None:
            if self.ranks.world > 1:
                raise InputError("a sharded head has cosines with all classes on one process only: give a sample")
            return super().call(embedding)
        embedding = self.ranks.gather(embedding)
        centres = tf.gather(self.centres, sample.classes)
        cosines = cosine_matrix(embedding, centres, self.matmul_dtype)
        return {"logits": cosines, "labels": sample.positions, "embedding": embedding}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, without the collectives, which belong to a process."""
        return {key: value for key, value in super().get_config().items() if key != "centres_initializer"}


class _NormalRows(keras.initializers.Initializer):
    """Normal values of rows of a larger matrix, which do not depend on where the matrix is cut."""

    def __init__(self, seed: int, first: int):
        self._seed, self._first = seed, first

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        rows, *rest = (int(side) for side in shape)
        begin, end = self._first // _BLOCK, -(-(self._first + rows) // _BLOCK)

        def write(number: tf.Tensor, array: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            block = tf.random.stateless_normal([_BLOCK, *rest], [self._seed, number], stddev=0.01, dtype=dtype)
            first = number * _BLOCK
            own = block[tf.maximum(self._first - first, 0) : self._first + rows - first]
            return number + 1, array.write(number - begin, own)

        # Blocks are cut before they are joined, since cutting the whole would copy it.
        array = tf.TensorArray(dtype, size=end - begin, infer_shape=False, element_shape=[None, *rest])
        _, array = tf.while_loop(lambda number, _: number < end, write, (tf.constant(begin), array))
        return tf.ensure_shape(array.concat(), [rows, *rest])

"""`FaceRecognizer`: embedding model + head, trained by `fit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.images import scale_pixels
from facetrain.models.averaging import SnapshotAverage, WeightAverage
from facetrain.models.sharpness import sharpness_aware


class FaceRecognizer(keras.Model):
    """Trains an embedding model through a head and a margin loss.

    One call of the train step is one update: gradients of the mean loss over the *global* batch, so that one device
    with batch B and N replicas with B/N each make the same update. With ``accumulate_steps=k`` the batch is worked
    through in k parts one after another, whose gradients are summed before the update.

    Args:
        embedding_model: scaled pixels [B, S, S, 3] -> embeddings [B, D].
        head: layer from embeddings [B, D] to cosines [B, C].
        scaling: name of the pixel scaling applied to the images on their way in.
    Call arguments: images [B, S, S, 3], pixels 0..255, uint8 or float.
    Returns: ``{"logits": [B, C] float32 cosines, "embedding": [B, D] float32}``.
    """

    def __init__(
        self,
        embedding_model: keras.Model,
        head: keras.layers.Layer,
        scaling: str = "minus_one_one_127_5",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.embedding_model = embedding_model
        self.head = head
        self.scaling = scaling
        self.margin_loss: keras.losses.Loss | None = None
        self.average: WeightAverage | SnapshotAverage | None = None
        self._accumulate_steps = 1
        self._sam_rho: float | None = None
        self._frozen: tuple[str, ...] = ()
        self._loss_mean = keras.metrics.Mean(name="loss")
        self._accuracy_mean = keras.metrics.Mean(name="accuracy")
        if not head.built:
            head.build(embedding_model.output_shape)
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` resets at the start of every epoch."""
        return [self._loss_mean, self._accuracy_mean]

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns cosines and embeddings; see the class."""
        embeddings = self.embedding_model(scale_pixels(images, self.scaling), training=training)
        return {"logits": self.head(embeddings), "embedding": embeddings}

    def compile(  # noqa: D417 - Keras' own arguments are Keras' to describe
        self,
        optimizer: keras.optimizers.Optimizer,
        loss: keras.losses.Loss,
        accumulate_steps: int = 1,
        average_decay: float | None = None,
        swa: tuple[int, int] | None = None,
        sam_rho: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: a Keras optimiser; under ``mixed_float16`` it is wrapped for loss scaling.
            loss: a margin loss: ``loss(labels, outputs) -> [B]``.
            accumulate_steps: number of parts k a batch is cut into; B must be a multiple of it.
            average_decay: keep an exponential moving average of the embedding model's weights with this decay.
            swa: keep the mean of its weights after updates ``first``, ``first + every``, ...; either of the two only.
            sam_rho: take the gradients where the loss nearby is highest, at this distance; two passes an update.
        """
        if accumulate_steps < 1:
            raise ValueError(f"accumulate_steps must be at least 1, received {accumulate_steps}")
        if average_decay and swa:
            raise ValueError("one average of the weights can be kept: give average_decay or swa, received both")
        if sam_rho is not None and sam_rho <= 0:
            raise ValueError(f"sam_rho must be above 0, received {sam_rho}")
        if self._needs_loss_scaling() and not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        super().compile(optimizer=optimizer, **kwargs)
        self.margin_loss = loss
        self._accumulate_steps = accumulate_steps
        self._sam_rho = sam_rho
        self.average = WeightAverage(self.embedding_model, average_decay) if average_decay else None
        if swa:
            self.average = SnapshotAverage(self.embedding_model, *swa)
        optimizer.build(self.updated_variables())

    def set_stage(self, loss: keras.losses.Loss, frozen: Sequence[str] = ()) -> None:
        """Replaces the loss and the frozen part; the next `fit` traces a new train step.

        Args:
            loss: the loss from now on.
            frozen: shell patterns of variables that are not updated, as ``embedding/*`` or ``head/centres``.
        """
        self.margin_loss = loss
        self._frozen = tuple(frozen)
        self.train_function = None

    def updated_variables(self) -> list[tf.Variable]:
        """Returns the trainable variables that no frozen pattern matches."""
        named = [(f"embedding/{v.name}", v) for v in self.embedding_model.trainable_variables]
        named += [(f"head/{v.name}", v) for v in self.head.trainable_variables]
        return [v for name, v in named if not any(fnmatch(name.split(":")[0], p) for p in self._frozen)]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes one update; ``data`` is ``{"image", "label"}`` or ``(images, labels)``."""
        images, labels = _unpack(data)
        variables = self.updated_variables()
        one_pass = self._gradients if self._accumulate_steps == 1 else self._accumulated_gradients
        if self._sam_rho is None:
            gradients, loss, accuracy = one_pass(images, labels, variables)
        else:
            gradients, loss, accuracy = sharpness_aware(
                lambda: one_pass(images, labels, variables), variables, self._passing_state(), self._sam_rho
            )
        self.optimizer.apply_gradients(list(zip(gradients, variables)))
        if self.average is not None:
            self.average.update(self.optimizer.iterations)
        self._loss_mean.update_state(loss)
        self._accuracy_mean.update_state(accuracy)
        return {"loss": self._loss_mean.result(), "accuracy": self._accuracy_mean.result(), "batch_loss": loss}

    def _passing_state(self) -> list[tf.Variable]:
        """Returns what a pass changes besides the weights."""
        found = [*self.embedding_model.non_trainable_variables, *self.head.non_trainable_variables]
        return [*found, *getattr(self.margin_loss, "variables", ())]

    def _gradients(
        self, images: tf.Tensor, labels: tf.Tensor, variables: list[tf.Variable]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Returns this replica's share of the gradients, and loss and accuracy of the part it saw."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            outputs = self(images, training=True)
            loss = tf.reduce_mean(self.margin_loss(labels, outputs))
            penalties = tf.add_n(self.losses) if self.losses else 0.0
            share = (loss + penalties) / (replicas * self._accumulate_steps)
            scaled = self._scale_loss(share)
        gradients = self._unscale_gradients(tape.gradient(scaled, variables))
        hits = tf.argmax(outputs["logits"], axis=1, output_type=labels.dtype) == labels
        return gradients, loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    def _accumulated_gradients(
        self, images: tf.Tensor, labels: tf.Tensor, variables: list[tf.Variable]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        parts = self._accumulate_steps
        rows = tf.shape(labels)[0]
        tf.debugging.assert_equal(rows % parts, 0, f"the batch must be a multiple of accumulate_steps={parts}")
        size = rows // parts

        def add_part(part: tf.Tensor, total: list, loss: tf.Tensor, accuracy: tf.Tensor) -> tuple:
            rows_of_part = slice(part * size, (part + 1) * size)
            gradients, part_loss, part_accuracy = self._gradients(images[rows_of_part], labels[rows_of_part], variables)
            total = [t + tf.convert_to_tensor(g) for t, g in zip(total, gradients)]
            return part + 1, total, loss + part_loss / parts, accuracy + part_accuracy / parts

        start = (tf.constant(0), [tf.zeros_like(v) for v in variables], tf.constant(0.0), tf.constant(0.0))
        # One part at a time: the point of accumulation is that only one part's activations are alive.
        _, total, loss, accuracy = tf.while_loop(
            lambda part, *_: part < parts, add_part, start, parallel_iterations=1, maximum_iterations=parts
        )
        return total, loss, accuracy

    def _needs_loss_scaling(self) -> bool:
        return any(layer.compute_dtype == "float16" for layer in self.embedding_model.layers)

    def _scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        scaler = getattr(self.optimizer, "get_scaled_loss", None)
        return scaler(loss) if scaler else loss

    def _unscale_gradients(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        unscaler = getattr(self.optimizer, "get_unscaled_gradients", None)
        return unscaler(gradients) if unscaler else gradients

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the embedding model carries its averaged weights, if an average is kept."""
        if self.average is None:
            yield
            return
        with self.average.applied():
            yield


def _unpack(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
    if isinstance(data, Mapping):
        return data["image"], data["label"]
    images, labels = data[:2]
    return images, labels

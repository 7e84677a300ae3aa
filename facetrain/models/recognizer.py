"""`FaceRecognizer`: embedding model + head, trained by `fit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.data.augment import AugmentationChain
from facetrain.data.augment_mix import mix_in_graph
from facetrain.images import scale_pixels
from facetrain.models.averaging import WeightAverage


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
        self.average: WeightAverage | None = None
        self.augmentations: AugmentationChain | None = None
        self._accumulate_steps = 1
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
        augmentations: AugmentationChain | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: a Keras optimiser; under ``mixed_float16`` it is wrapped for loss scaling.
            loss: ``loss(labels, outputs) -> [B]``; one of ``facetrain.losses`` moves its statistics once per update.
            accumulate_steps: number of parts k a batch is cut into; B must be a multiple of it.
            average_decay: keep an exponential moving average of the embedding model's weights with this decay.
            augmentations: those of a pipeline with ``augment_on="device"``: train steps do to the images what their
                batch says.
        """
        if accumulate_steps < 1:
            raise ValueError(f"accumulate_steps must be at least 1, received {accumulate_steps}")
        if self._needs_loss_scaling() and not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        super().compile(optimizer=optimizer, **kwargs)
        self._take_loss(loss)
        self._accumulate_steps = accumulate_steps
        self.augmentations = augmentations
        self.average = WeightAverage(self.embedding_model, average_decay) if average_decay else None
        optimizer.build(self.updated_variables())

    def set_stage(self, loss: keras.losses.Loss, frozen: Sequence[str] = ()) -> None:
        """Replaces the loss and the frozen part; the next `fit` traces a new train step.

        Args:
            loss: the loss from now on.
            frozen: shell patterns of variables that are not updated, as ``embedding/*`` or ``head/centres``.
        """
        self._take_loss(loss)
        self._frozen = tuple(frozen)
        self.train_function = None

    @property
    def frozen(self) -> tuple[str, ...]:
        """Shell patterns of variables that are not updated."""
        return self._frozen

    def _take_loss(self, loss: keras.losses.Loss) -> None:
        """Takes a loss, and lets it create what depends on the sizes of the model where the model's variables are."""
        if hasattr(loss, "build"):
            num_classes = getattr(self.head, "num_classes", None)
            if num_classes is None:
                num_classes = self.head.compute_output_shape(self.embedding_model.output_shape)[-1]
            with self.distribute_strategy.scope():
                loss.build(num_classes, self.embedding_model.output_shape[-1])
        self.margin_loss = loss

    def updated_variables(self) -> list[tf.Variable]:
        """Returns the trainable variables that no frozen pattern matches."""
        named = [(f"embedding/{v.name}", v) for v in self.embedding_model.trainable_variables]
        named += [(f"head/{v.name}", v) for v in self.head.trainable_variables]
        return [v for name, v in named if not any(fnmatch(name.split(":")[0], p) for p in self._frozen)]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes one update; ``data`` is a batch of ``build_pipeline``, or ``(images, labels)``."""
        batch = _as_batch(data)
        variables = self.updated_variables()
        if self._accumulate_steps == 1:
            gradients, loss, accuracy, seen = self._gradients(batch, variables)
            observed = [value[tf.newaxis] for value in seen]
        else:
            gradients, loss, accuracy, observed = self._accumulated_gradients(batch, variables)
        self.optimizer.apply_gradients(list(zip(gradients, variables)))
        if observed:
            self.margin_loss.observe(observed)
        if self.average is not None:
            self.average.update(self.optimizer.iterations)
        self._loss_mean.update_state(loss)
        self._accuracy_mean.update_state(accuracy)
        return {"loss": self._loss_mean.result(), "accuracy": self._accuracy_mean.result(), "batch_loss": loss}

    def _gradients(
        self, batch: Mapping[str, Any], variables: list[tf.Variable]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns this replica's share of the gradients, then loss, accuracy and observations of the part it saw."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        images = self._augmented(batch)
        with tf.GradientTape() as tape:
            outputs = self(images, training=True)
            losses, observed = self._example_losses(batch, outputs)
            loss = tf.reduce_mean(losses)
            penalties = tf.add_n(self.losses) if self.losses else 0.0
            share = (loss + penalties) / (replicas * self._accumulate_steps)
            scaled = self._scale_loss(share)
        # Losses on embeddings leave the head without a gradient.
        unconnected = tf.UnconnectedGradients.ZERO
        gradients = self._unscale_gradients(tape.gradient(scaled, variables, unconnected_gradients=unconnected))
        labels = _main_labels(batch)
        hits = tf.argmax(outputs["logits"], axis=1, output_type=labels.dtype) == labels
        return gradients, loss, tf.reduce_mean(tf.cast(hits, tf.float32)), observed

    def _accumulated_gradients(
        self, batch: Mapping[str, Any], variables: list[tf.Variable]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        parts = self._accumulate_steps
        rows = tf.shape(batch["label"])[0]
        tf.debugging.assert_equal(rows % parts, 0, f"the batch must be a multiple of accumulate_steps={parts}")
        size = rows // parts

        def add_part(part: tf.Tensor, total: list, loss: tf.Tensor, accuracy: tf.Tensor, seen: list) -> tuple:
            rows_of_part = slice(part * size, (part + 1) * size)
            part_of_batch = tf.nest.map_structure(lambda tensor: tensor[rows_of_part], batch)
            gradients, part_loss, part_accuracy, observed = self._gradients(part_of_batch, variables)
            total = [t + tf.convert_to_tensor(g) for t, g in zip(total, gradients)]
            seen = [array.write(part, value) for array, value in zip(seen, observed)]
            return part + 1, total, loss + part_loss / parts, accuracy + part_accuracy / parts, seen

        dtypes = getattr(self.margin_loss, "observed_dtypes", ())
        seen = [tf.TensorArray(dtype, size=parts) for dtype in dtypes]
        start = (tf.constant(0), [tf.zeros_like(v) for v in variables], tf.constant(0.0), tf.constant(0.0), seen)
        # One part at a time: the point of accumulation is that only one part's activations are alive.
        _, total, loss, accuracy, seen = tf.while_loop(
            lambda part, *_: part < parts, add_part, start, parallel_iterations=1, maximum_iterations=parts
        )
        return total, loss, accuracy, [array.stack() for array in seen]

    def _augmented(self, batch: Mapping[str, Any]) -> tf.Tensor:
        """Returns the images to train on; does here what the pipeline left to the device."""
        images = batch["image"]
        if "plan" not in batch:
            return images
        if self.augmentations is None:
            raise ValueError("batches are to be augmented on the device: compile with the pipeline's augmentations")
        images = self.augmentations.in_graph(images, batch["plan"])
        if "mix_image" not in batch:
            return images
        partners = self.augmentations.in_graph(batch["mix_image"], batch["mix_plan"])
        return mix_in_graph(images, partners, batch["mix_weight"])

    def _example_losses(
        self, batch: Mapping[str, Any], outputs: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the loss of each example [B] and what it observed; a mixed one has the mean over its two labels."""
        losses, observed = self._evaluate_loss(batch["label"], outputs)
        if "mix_label" not in batch:
            return losses, observed
        weights = tf.cast(batch["mix_weight"], losses.dtype)
        # Statistics follow the own labels: an image is observed once, whatever it was mixed with.
        others, _ = self._evaluate_loss(batch["mix_label"], outputs)
        return weights * losses + (1 - weights) * others, observed

    def _evaluate_loss(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the loss of each example and what it observed, without moving its statistics."""
        evaluate = getattr(self.margin_loss, "evaluate", None)
        return (self.margin_loss(labels, outputs), []) if evaluate is None else evaluate(labels, outputs)

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


def _as_batch(data: Any) -> Mapping[str, Any]:
    if isinstance(data, Mapping):
        return data
    images, labels = data[:2]
    return {"image": images, "label": labels}


def _main_labels(batch: Mapping[str, Any]) -> tf.Tensor:
    """Returns the label [B] with the greater weight, by which a mixed example counts as right."""
    if "mix_label" not in batch:
        return batch["label"]
    return tf.where(batch["mix_weight"] >= 0.5, batch["label"], batch["mix_label"])

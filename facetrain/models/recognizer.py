"""`FaceRecognizer`: embedding model + head, trained by `fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

import tensorflow as tf
from tensorflow import keras

from facetrain.data.augment import AugmentationChain
from facetrain.errors import InputError
from facetrain.images import scale_pixels
from facetrain.models.averaging import SnapshotAverage, WeightAverage
from facetrain.models.gradients import GradientPass, Passed, labels_of
from facetrain.models.head_change import carry_centres, carry_optimizer
from facetrain.models.shards import mark_slots, refuse_impossible_sharding, refuse_loss
from facetrain.models.sharpness import sharpness_aware


class FaceRecognizer(keras.Model):
    """Trains an embedding model through a head and a margin loss.

    One call of the train step is one update: gradients of the mean loss over the *global* batch, so that one device
    with batch B and N replicas with B/N each make the same update. With ``accumulate_steps=k`` the batch is worked
    through in k parts one after another, whose gradients are summed before the update.

    Args:
        embedding_model: scaled pixels [B, S, S, 3] -> embeddings [B, D].
        head: layer from embeddings [B, D] to cosines [B, C]. One that declares ``needs_labels = True`` has a method
            ``sample(labels, step, present)``; it is drawn once a step, and training calls ``head(embeddings,
            sample=sample)``, which returns {"logits": [B, S], "labels": [B] positions}. All its trainable variables
            have the class as their first axis. What a sample must offer, ``ClassSample`` does.
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
        self.augmentations: AugmentationChain | None = None
        self._accumulate_steps = 1
        self._sam_rho: float | None = None
        self._gather_labels: Callable[[tf.Tensor], tf.Tensor] | None = None
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

    def call(self, images: tf.Tensor, training: bool = False, sample: Any = None) -> dict[str, tf.Tensor]:
        """Returns cosines and embeddings, and with a sample of classes the labels in it; see the class."""
        return self.with_head(self.embedding_model(scale_pixels(images, self.scaling), training=training), sample)

    def with_head(self, embeddings: tf.Tensor, sample: Any = None) -> dict[str, tf.Tensor]:
        """Returns what a call returns, for embeddings [B, D]."""
        if sample is None:
            return {"logits": self.head(embeddings), "embedding": embeddings}
        return {"embedding": embeddings, **self.head(embeddings, sample=sample)}

    def training_outputs(self, images: tf.Tensor, batch: Mapping[str, Any], sample: Any = None) -> dict[str, Any]:
        """Returns what the loss of a train step sees of some images; subclasses add to it.

        Args:
            images: [B, S, S, 3], augmented.
            batch: all that came with them.
            sample: the classes of this step, if the head wants any.
        """
        return self(images, training=True, sample=sample)

    @property
    def extra_layers(self) -> list[keras.layers.Layer]:
        """Layers that train along and belong to neither embedding model nor head; none here."""
        return []

    def compile(  # noqa: D417 - Keras' own arguments are Keras' to describe
        self,
        optimizer: keras.optimizers.Optimizer,
        loss: keras.losses.Loss,
        accumulate_steps: int = 1,
        average_decay: float | None = None,
        augmentations: AugmentationChain | None = None,
        swa: tuple[int, int] | None = None,
        sam_rho: float | None = None,
        gather_labels: Callable[[tf.Tensor], tf.Tensor] | None = None,
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
            swa: keep the mean of its weights after updates ``first``, ``first + every``, ...; either of the two only.
            sam_rho: take the gradients where the loss nearby is highest, at this distance; two passes an update.
            gather_labels: joins the labels [B] of this process with those of others that make the same update, as
                ``Runtime.gather_in_step``, for heads that sample classes.
        """
        if accumulate_steps < 1:
            raise ValueError(f"accumulate_steps must be at least 1, received {accumulate_steps}")
        if average_decay and swa:
            raise ValueError("one average of the weights can be kept: give average_decay or swa, received both")
        if sam_rho is not None and sam_rho <= 0:
            raise ValueError(f"sam_rho must be above 0, received {sam_rho}")
        optimizer = self._with_loss_scaling(optimizer)
        _refuse_impossible_sampling(self.head, kwargs.get("jit_compile"), sam_rho)
        refuse_impossible_sharding(self.head, optimizer, gather_labels)
        super().compile(optimizer=optimizer, **kwargs)
        # Metrics are means over all replicas already; Keras would add up those of workers.
        self.distribute_reduction_method = "first"
        self._take_loss(loss)
        self._accumulate_steps = accumulate_steps
        self.augmentations = augmentations
        self._sam_rho = sam_rho
        self._gather_labels = gather_labels
        self.average = WeightAverage(self.embedding_model, average_decay) if average_decay else None
        if swa:
            self.average = SnapshotAverage(self.embedding_model, *swa)
        optimizer.build(self.updated_variables())
        mark_slots(optimizer, self.head.trainable_variables)

    def set_stage(self, loss: keras.losses.Loss, frozen: Sequence[str] = ()) -> None:
        """Replaces the loss and the frozen part; the next `fit` traces a new train step.

        Args:
            loss: the loss from now on.
            frozen: shell patterns of variables that are not updated, as ``embedding/*`` or ``head/centres``; one that
                begins with ``!`` takes back what patterns before it say.
        """
        self._take_loss(loss)
        self._frozen = tuple(frozen)
        self.train_function = None

    def change_head(self, head: keras.layers.Layer, optimizer: keras.optimizers.Optimizer) -> None:
        """Replaces the head, with centres carried over where they fit; the next `fit` traces a new train step.

        Args:
            head: a head that is not built yet; see ``facetrain.models.head_change`` for what fits.
            optimizer: a new one like the present one. It goes on with what that one knows, except of the head, whose
                slots start anew.
        """
        optimizer = self._with_loss_scaling(optimizer)
        _refuse_impossible_sampling(head, self.jit_compile, self._sam_rho)
        refuse_impossible_sharding(head, optimizer, self._gather_labels)
        before = self.head
        with self.distribute_strategy.scope():
            head.build(self.embedding_model.output_shape)
            carry_centres(before, head)
            frozen, self._frozen, self.head = self._frozen, (), head
            optimizer.build(self.updated_variables())
            self._frozen = frozen
            mark_slots(optimizer, head.trainable_variables)
            carry_optimizer(self.optimizer, optimizer, [*before.trainable_variables, *head.trainable_variables])
        self.optimizer = optimizer
        self.train_function = None

    @property
    def frozen(self) -> tuple[str, ...]:
        """Shell patterns of variables that are not updated."""
        return self._frozen

    def _take_loss(self, loss: keras.losses.Loss) -> None:
        """Takes a loss, and lets it create what depends on the sizes of the model where the model's variables are."""
        refuse_loss(self.head, loss)
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
        named += [(f"extra/{v.name}", v) for layer in self.extra_layers for v in layer.trainable_variables]
        return [v for name, v in named if not is_frozen(name.split(":")[0], self._frozen)]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes one update; ``data`` is a batch of ``build_pipeline``, or ``(images, labels)``."""
        batch = _as_batch(data)
        variables = self.updated_variables()
        one_pass = GradientPass(self, variables, self._accumulate_steps, self._sample(batch))
        if self._sam_rho is None:
            passed = one_pass(batch)
        else:
            passed = Passed(*sharpness_aware(lambda: one_pass(batch), variables, self._passing_state(), self._sam_rho))
        self.optimizer.apply_gradients(list(zip(passed.gradients, variables)))
        if passed.observed:
            self.margin_loss.observe(passed.observed)
        if self.average is not None:
            self.average.update(self.optimizer.iterations)
        self._loss_mean.update_state(passed.loss)
        self._accuracy_mean.update_state(passed.accuracy)
        return {"loss": self._loss_mean.result(), "accuracy": self._accuracy_mean.result(), "batch_loss": passed.loss}

    def _sample(self, batch: Mapping[str, Any]) -> Any:
        """Draws the classes of this step, if the head wants any: one sample for the batch, however it is divided."""
        if not getattr(self.head, "needs_labels", False):
            return None
        present, replica = labels_of(batch), tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            present = replica.all_gather(present, axis=0)
        if self._gather_labels is not None:
            present = self._gather_labels(present)
        return self.head.sample(batch["label"], self.optimizer.iterations, present)

    def _passing_state(self) -> list[tf.Variable]:
        """Returns what a pass changes besides the weights."""
        return [*self.embedding_model.non_trainable_variables, *self.head.non_trainable_variables]

    def _with_loss_scaling(self, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        needed = any(layer.compute_dtype == "float16" for layer in self.embedding_model.layers)
        if not needed or isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
            return optimizer
        return keras.mixed_precision.LossScaleOptimizer(optimizer)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the embedding model carries its averaged weights, if an average is kept."""
        if self.average is None:
            yield
            return
        with self.average.applied():
            yield


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Whether a variable is not to be updated: the last pattern that matches decides, one with ``!`` against it."""
    last = [p for p in patterns if fnmatch(name, p.removeprefix("!"))][-1:]
    return bool(last) and not last[0].startswith("!")


def _refuse_impossible_sampling(head: keras.layers.Layer, jit_compile: bool | None, sam_rho: float | None) -> None:
    if not getattr(head, "needs_labels", False):
        return
    if jit_compile:
        raise InputError("jit_compile cannot be used with a head that samples classes: set it to false")
    if sam_rho is not None:
        raise InputError("sam moves all centres, a head that samples classes only some: use the head 'cosine'")


def _as_batch(data: Any) -> Mapping[str, Any]:
    if isinstance(data, Mapping):
        return data
    images, labels = data[:2]
    return {"image": images, "label": labels}

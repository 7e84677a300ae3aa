"""Passes of a recogniser over a batch: gradients, and what was seen on the way; whole or part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from facetrain.data.augment_mix import mix_in_graph
from facetrain.kernels import not_compiled

Batch = Mapping[str, Any]


class Passed(NamedTuple):
    """What a pass over a batch found.

    Attributes:
        gradients: of each variable, this replica's share of those of the mean loss over the global batch.
        loss: mean over this replica's examples.
        accuracy: share of them whose own class has the greatest cosine.
        observed: what the loss wants to observe of each part, [parts, ...] each.
    """

    gradients: list[Any]
    loss: tf.Tensor
    accuracy: tf.Tensor
    observed: list[tf.Tensor]


class GradientPass:
    """Computes gradients without changing any weight or any statistics of the loss.

    Args:
        recognizer: a compiled ``FaceRecognizer``.
        variables: what gradients are wanted of.
        parts: number of parts in which a batch is worked through, one after another.
        sample: the classes of this step, if the head trains against a sample of them.
    """

    def __init__(self, recognizer: Any, variables: Sequence[tf.Variable], parts: int = 1, sample: Any = None):
        self.recognizer, self.variables, self.parts, self.sample = recognizer, list(variables), parts, sample

    def __call__(self, batch: Batch) -> Passed:
        """Returns gradients and numbers of a batch of ``build_pipeline``."""
        if self.parts > 1:
            return self._part_by_part(batch)
        passed = self._one_part(batch, self.sample)
        return passed._replace(observed=[value[tf.newaxis] for value in passed.observed])

    def _one_part(self, batch: Batch, sample: Any) -> Passed:
        recognizer = self.recognizer
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        images = self._augmented(batch)
        with not_compiled(not recognizer.jit_compile), tf.GradientTape() as tape:
            outputs = recognizer.training_outputs(images, batch, sample)
            losses, observed = self._example_losses(batch, outputs, sample)
            loss = tf.reduce_mean(losses)
            penalties = tf.add_n(recognizer.losses) if recognizer.losses else 0.0
            scaled = self._scale((loss + penalties) / (replicas * self.parts))
        gradients = [
            self._none_or(gradient, variable, sample)
            for gradient, variable in zip(tape.gradient(scaled, self.variables), self.variables)
        ]
        hits = _hits(outputs, _main_labels(batch), sample)
        return Passed(self._unscale(gradients), loss, tf.reduce_mean(tf.cast(hits, tf.float32)), observed)

    def _part_by_part(self, batch: Batch) -> Passed:
        parts, variables, sample = self.parts, self.variables, self.sample
        rows = tf.shape(batch["label"])[0]
        tf.debugging.assert_equal(rows % parts, 0, f"the batch must be a multiple of accumulate_steps={parts}")
        size = rows // parts
        sampled = [self._is_sampled(v) for v in variables]

        def add_part(part: tf.Tensor, total: list, loss: tf.Tensor, accuracy: tf.Tensor, seen: list) -> tuple:
            rows_of_part = slice(part * size, (part + 1) * size)
            part_of_batch = tf.nest.map_structure(lambda tensor: tensor[rows_of_part], batch)
            passed = self._one_part(part_of_batch, sample and sample.part(rows_of_part))
            # All parts have the same sample, so their rows are the same and only the values are added.
            values = [g.values if s else tf.convert_to_tensor(g) for g, s in zip(passed.gradients, sampled)]
            total = [t + v for t, v in zip(total, values)]
            seen = [array.write(part, value) for array, value in zip(seen, passed.observed)]
            return part + 1, total, loss + passed.loss / parts, accuracy + passed.accuracy / parts, seen

        zeros = [_zero_rows(v, sample.classes) if s else tf.zeros_like(v) for v, s in zip(variables, sampled)]
        dtypes = getattr(self.recognizer.margin_loss, "observed_dtypes", ())
        seen = [tf.TensorArray(dtype, size=parts) for dtype in dtypes]
        start = (tf.constant(0), zeros, tf.constant(0.0), tf.constant(0.0), seen)
        # One part at a time: the point of accumulation is that only one part's activations are alive.
        _, total, loss, accuracy, seen = tf.while_loop(
            lambda part, *_: part < parts, add_part, start, parallel_iterations=1, maximum_iterations=parts
        )
        gradients = [_rows(t, sample.classes, v) if s else t for t, v, s in zip(total, variables, sampled)]
        return Passed(gradients, loss, accuracy, [array.stack() for array in seen])

    def _is_sampled(self, variable: tf.Variable) -> bool:
        """Whether only rows of a variable have a gradient: it belongs to a head that trains against a sample."""
        return self.sample is not None and any(variable is v for v in self.recognizer.head.trainable_variables)

    def _none_or(self, gradient: Any, variable: tf.Variable, sample: Any) -> Any:
        """Returns a gradient, or zeros where there is none: losses on embeddings leave the head without one."""
        if gradient is not None:
            return gradient
        if self._is_sampled(variable):
            return _rows(_zero_rows(variable, sample.classes), sample.classes, variable)
        return tf.zeros_like(variable)

    def _augmented(self, batch: Batch) -> tf.Tensor:
        """Returns the images to train on; does here what the pipeline left to the device."""
        images, chain = batch["image"], self.recognizer.augmentations
        if "plan" not in batch:
            return images
        if chain is None:
            raise ValueError("batches are to be augmented on the device: compile with the pipeline's augmentations")
        images = chain.in_graph(images, batch["plan"])
        if "mix_image" not in batch:
            return images
        partners = chain.in_graph(batch["mix_image"], batch["mix_plan"])
        return mix_in_graph(images, partners, batch["mix_weight"])

    def _example_losses(
        self, batch: Batch, outputs: Mapping[str, tf.Tensor], sample: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the loss of each example [B] and what it observed; a mixed one has the mean over its two labels."""
        losses, observed = self._evaluate(batch["label"], outputs, sample)
        if "mix_label" not in batch:
            return losses, observed
        if sample is not None:
            outputs = {**outputs, "labels": sample.positions_of(batch["mix_label"])}
        # Statistics follow the own labels: an image is observed once, whatever it was mixed with.
        others, _ = self._evaluate(batch["mix_label"], outputs, sample)
        weights = tf.cast(batch["mix_weight"], losses.dtype)
        return weights * losses + (1 - weights) * others, observed

    def _evaluate(
        self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor], sample: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        loss = self.recognizer.margin_loss
        outputs = outputs if sample is None else sample.for_loss(outputs)
        evaluate = getattr(loss, "evaluate", None)
        losses, observed = (loss(labels, outputs), []) if evaluate is None else evaluate(labels, outputs)
        return losses if sample is None else sample.own(losses), observed

    def _scale(self, loss: tf.Tensor) -> tf.Tensor:
        scaler = getattr(self.recognizer.optimizer, "get_scaled_loss", None)
        return scaler(loss) if scaler else loss

    def _unscale(self, gradients: list[Any]) -> list[Any]:
        unscaler = getattr(self.recognizer.optimizer, "get_unscaled_gradients", None)
        return unscaler(gradients) if unscaler else gradients


def labels_of(batch: Batch) -> tf.Tensor:
    """Returns all labels that the loss of a batch asks for: the own ones, and those of what was mixed in."""
    return tf.concat([batch[name] for name in ("label", "mix_label") if name in batch], axis=0)


def _hits(outputs: Mapping[str, tf.Tensor], labels: tf.Tensor, sample: Any) -> tf.Tensor:
    """Returns for each example [B] whether its class has the greatest cosine."""
    if sample is not None:
        return sample.hits(outputs, labels)
    return tf.argmax(outputs["logits"], axis=1, output_type=tf.int32) == tf.cast(labels, tf.int32)


def _main_labels(batch: Batch) -> tf.Tensor:
    """Returns the label [B] with the greater weight, by which a mixed example counts as right."""
    if "mix_label" not in batch:
        return batch["label"]
    return tf.where(batch["mix_weight"] >= 0.5, batch["label"], batch["mix_label"])


def _zero_rows(variable: tf.Variable, classes: tf.Tensor) -> tf.Tensor:
    return tf.zeros(tf.concat([tf.shape(classes), variable.shape[1:]], axis=0), variable.dtype)


def _rows(values: tf.Tensor, classes: tf.Tensor, variable: tf.Variable) -> tf.IndexedSlices:
    return tf.IndexedSlices(values, classes, tf.constant(variable.shape.as_list()))

"""Supervised contrastive loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from facetrain.losses.base import FaceLoss, Observed
from facetrain.losses.checks import checked
from facetrain.losses.distances import embeddings_of, same_and_other, unit_vectors
from facetrain.serialization import serializable


@serializable
class SupConLoss(FaceLoss):
    """Minus the mean log-probability of an anchor's positives among all other images of the batch.

    For anchor i, with z the cosines divided by the temperature and P the images of the same person:
    -1/|P| sum over p in P of log(exp(z_ip) / sum over a != i of exp(z_ia)). Anchors without a positive count as zero.
    Replicas compare their own part of the batch.
    Reference: Khosla et al., NeurIPS 2020, arXiv 2004.11362, equation 2 (L_out).

    Args:
        temperature: above 0.
        base_temperature: multiply the loss by temperature / base_temperature, as the authors' code does; None: not.
        name: name of the loss.
    Call arguments: labels [B] integers; outputs {"embedding": [B, D]} of any length.
    Returns: [B] float32, one loss per anchor.
    Raises: InputError if an argument is outside its range, or there is no embedding.
    """

    def __init__(self, temperature: float = 0.1, base_temperature: float | None = None, name: str | None = None):
        super().__init__(name)
        self.temperature = checked("temperature", temperature, 0.0, math.inf, open_low=True)
        self.base_temperature = base_temperature
        if base_temperature is not None:
            self.base_temperature = checked("base_temperature", base_temperature, 0.0, math.inf, open_low=True)

    def per_example(self, labels: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Observed]:
        """Returns the loss of each anchor [B]."""
        units = unit_vectors(embeddings_of(outputs))
        logits = tf.matmul(units, units, transpose_b=True) / self.temperature
        same, _ = same_and_other(labels)
        # The anchor itself is no candidate; finite, so that no infinity meets a zero below.
        logits = tf.linalg.set_diag(logits, tf.fill(tf.shape(labels), tf.constant(-1e30, logits.dtype)))
        log_probabilities = logits - tf.reduce_logsumexp(logits, axis=1, keepdims=True)
        positives = tf.reduce_sum(tf.cast(same, logits.dtype), axis=1)
        sums = tf.reduce_sum(tf.where(same, log_probabilities, tf.zeros_like(logits)), axis=1)
        factor = 1.0 if self.base_temperature is None else self.temperature / self.base_temperature
        return -factor * sums / tf.maximum(positives, 1.0), []

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"temperature": self.temperature, "base_temperature": self.base_temperature, "name": self.name}

"""What teachers cost: images per second of the student alone, of each teacher, and of both together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.distillation.beside import key_of
from facetrain.distillation.distiller import Distiller
from facetrain.models.gradients import GradientPass

_TIMES = 3


def measure_cost(distiller: Distiller, batch_size: int, size: int) -> dict[str, Any]:
    """Measures forward and backward passes of random images, without an update; the model is afterwards as before.

    Teachers beside the step are timed one after the other with it; in training they run ahead while it computes.

    Args:
        distiller: compiled, on one device, with a head that samples no classes.
        batch_size: images.
        size: side of the images, pixels.
    Returns:
        images per second: ``student``, where constants stand for what teachers say, ``together``, and one number for
        each of ``teachers`` that computes (None for stored embeddings).
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    batch = {"image": tf.constant(images), "label": tf.zeros([batch_size], tf.int32)}
    for number, lesson in enumerate(distiller.lessons):
        if not lesson.teacher.in_step:
            batch[key_of(number)] = tf.ones([batch_size, lesson.teacher.embedding_size])
    teachers = [_teacher_seconds(lesson.teacher, images) for lesson in distiller.lessons]
    with distiller.without_teachers():
        alone = _pass_seconds(distiller, batch)
    beside = sum(seconds or 0.0 for seconds, lesson in zip(teachers, distiller.lessons) if not lesson.teacher.in_step)
    together = _pass_seconds(distiller, batch) + beside
    rates = [None if seconds is None else batch_size / seconds for seconds in teachers]
    return {"student": batch_size / alone, "together": batch_size / together, "teachers": rates}


def _teacher_seconds(teacher: Any, images: np.ndarray) -> float | None:
    return None if teacher.kind == "store" else _seconds(lambda: teacher.embed(images))


def _pass_seconds(distiller: Distiller, batch: dict[str, tf.Tensor]) -> float:
    one_pass = GradientPass(distiller, distiller.updated_variables())
    state = [*distiller.embedding_model.non_trainable_variables, *distiller.head.non_trainable_variables]
    before = [variable.numpy() for variable in state]

    @tf.function
    def run() -> tf.Tensor:
        passed = one_pass(batch)
        # Every gradient is needed for the number that is returned; a factor of 0 would be folded away.
        sums = [tf.reduce_sum(tf.cast(gradient, tf.float32)) for gradient in passed.gradients]
        return passed.loss + 1e-30 * tf.add_n(sums)

    seconds = _seconds(lambda: run().numpy())
    for variable, value in zip(state, before):
        variable.assign(value)
    return seconds


def _seconds(function: Callable[[], Any]) -> float:
    """Returns the shortest of some calls, after one that may have to build something."""
    function()
    found = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)

"""`Distiller`: a recogniser whose loss also sees what teachers say about its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.distillation.beside import key_of
from facetrain.distillation.keras_teacher import tapped
from facetrain.errors import InputError
from facetrain.images import DEFAULT_SCALING, scale_pixels
from facetrain.losses.distances import unit_vectors
from facetrain.models.recognizer import FaceRecognizer

SEVERAL = ("average", "concatenate")


class Lesson(NamedTuple):
    """What is learned from one teacher.

    Attributes:
        teacher: a ``PixelTeacher``, or a ``StoredTeacher``.
        weight: above 0, relative to those of other teachers.
        centres: the teacher's class centres [C, D] by the labels of the training images, if it has any.
    """

    teacher: Any
    weight: float = 1.0
    centres: Optional[np.ndarray] = None


class Distiller(FaceRecognizer):
    """Trains an embedding model, the student, by labels, by teachers, or by both.

    The loss sees, beside "embedding" and "logits", under "teachers" what ``facetrain.losses.distillation`` describes,
    "centres" of the head, "features" of tapped layers, and "step", the number of updates made. A teacher whose
    embeddings have another length than the student's is compared through a learned linear map of the student's
    embedding, which is trained and saved in checkpoints but is no part of the embedding model. Teachers are neither
    trained nor saved.

    Args:
        embedding_model: the student.
        head: as in FaceRecognizer.
        lessons: at least one; their teachers that do not compute in the step must be attached to the data set
            (``facetrain.distillation.beside``).
        scaling: as in FaceRecognizer.
        several: ``"average"``: losses are averaged over teachers; ``"concatenate"``: their unit-length embeddings,
            times the root of their weights, are one embedding of one teacher.
        layers: pairs (student's layer, teacher's layer) whose outputs the loss compares; for Keras teachers.
    Raises: InputError if there is no lesson, a weight is not above 0, or a layer is unknown.
    """

    def __init__(
        self,
        embedding_model: keras.Model,
        head: keras.layers.Layer,
        lessons: Sequence[Lesson],
        scaling: str = DEFAULT_SCALING,
        several: str = "average",
        layers: Sequence[tuple[str, str]] = (),
        **kwargs: Any,
    ):
        if not lessons or not all(lesson.weight > 0 for lesson in lessons):
            raise InputError("distillation needs at least one teacher, each with a weight above 0")
        if several not in SEVERAL:
            raise InputError(f"several teachers can be treated as {' or '.join(SEVERAL)}, received {several!r}")
        super().__init__(embedding_model, head, scaling, **kwargs)
        sizes = [lesson.teacher.embedding_size for lesson in lessons]
        sizes = [sum(sizes)] if several == "concatenate" else sizes
        self.projections = [_projection(embedding_model.output_shape[-1], size, i) for i, size in enumerate(sizes)]
        self._class = _Class(embedding_model, lessons, several, layers)

    @property
    def extra_layers(self) -> list[keras.layers.Layer]:
        """The learned maps to the spaces of teachers of other embedding sizes."""
        return [layer for layer in self.projections if layer.weights]

    @property
    def lessons(self) -> list[Lesson]:
        """What is learned from whom."""
        return list(self._class.lessons)

    def training_outputs(self, images: tf.Tensor, batch: Mapping[str, Any], sample: Any = None) -> dict[str, Any]:
        """Returns the student's outputs and what the teachers say; see the class."""
        outputs, features = self._student(images, sample)
        views = self._class.look(images, batch)
        teachers = [
            {**view, "student": projection(outputs["embedding"])} for view, projection in zip(views, self.projections)
        ]
        known = {"teachers": teachers, "features": features, "step": self.optimizer.iterations}
        return {**outputs, **known, "centres": getattr(self.head, "centres", None)}

    @contextmanager
    def without_teachers(self) -> Iterator[None]:
        """Inside, steps that are traced take constants for what teachers say, and so cost what the student costs."""
        self._class.absent = True
        try:
            yield
        finally:
            self._class.absent = False

    def _student(self, images: tf.Tensor, sample: Any) -> tuple[dict[str, Any], dict[str, tf.Tensor]]:
        names = self._class.student_layers
        if not names:
            return self(images, training=True, sample=sample), {}
        pixels = scale_pixels(images, self.scaling)
        embeddings, *features = self._class.student(pixels, training=True)
        return self.with_head(embeddings, sample), dict(zip(names, features))


class _Class:
    """The teachers of a distiller, where Keras does not look for layers and variables: they are not its own."""

    def __init__(
        self, student: keras.Model, lessons: Sequence[Lesson], several: str, layers: Sequence[tuple[str, str]]
    ):
        self.lessons, self.several, self.absent = list(lessons), several, False
        self.student_layers = list(dict.fromkeys(ours for ours, _ in layers))
        self.student = tapped(student, self.student_layers, "student")
        self.centres = [_constant(lesson.centres) for lesson in lessons]
        for lesson in lessons if layers else ():
            if lesson.teacher.kind != "keras":
                raise InputError(f"only Keras teachers have layers to compare, received {lesson.teacher.kind!r}")
            lesson.teacher.tap(list(dict.fromkeys(theirs for _, theirs in layers)))

    def look(self, images: tf.Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns what each teacher says about a batch."""
        found = []
        for number, (lesson, centres) in enumerate(zip(self.lessons, self.centres)):
            said = self._absent(lesson, images) if self.absent else self._ask(lesson.teacher, number, images, batch)
            found.append({**said, "weight": float(lesson.weight), "centres": centres})
        return found if self.several == "average" else [_concatenated(found)]

    def _ask(self, teacher: Any, number: int, images: tf.Tensor, batch: Mapping[str, Any]) -> dict[str, Any]:
        if teacher.in_step:
            return teacher.teach(images)
        key = key_of(number)
        if key not in batch:
            raise ValueError(f"the batch has no {key!r}: attach the teachers to the data set")
        return {"embedding": batch[key]}

    def _absent(self, lesson: Lesson, images: tf.Tensor) -> dict[str, Any]:
        teacher = lesson.teacher
        said = {"embedding": tf.ones([tf.shape(images)[0], teacher.embedding_size])}
        if teacher.kind == "keras":
            said["features"] = teacher.constant_features(tf.shape(images)[0])
        return said


def _concatenated(views: list[dict[str, Any]]) -> dict[str, Any]:
    total = sum(view["weight"] for view in views)
    parts = [unit_vectors(view["embedding"]) * (view["weight"] / total) ** 0.5 for view in views]
    return {"embedding": tf.concat(parts, axis=1), "weight": 1.0, "features": views[0].get("features")}


def _projection(student: int, teacher: int, number: int) -> keras.layers.Layer:
    """Returns the map from the student's embedding to the space of a teacher: none where the sizes are equal."""
    if student == teacher:
        return keras.layers.Activation("linear", dtype="float32", name=f"same_space_{number}")
    projection = keras.layers.Dense(teacher, use_bias=False, dtype="float32", name=f"projection_{number}")
    with tf.name_scope(projection.name):  # in which a call would build it
        projection.build((None, student))
    return projection


def _constant(centres: Optional[np.ndarray]) -> Optional[tf.Variable]:
    """Returns centres as a variable, which a graph does not hold a copy of."""
    return None if centres is None else tf.Variable(np.asarray(centres, np.float32), trainable=False, name="centres")

"""Teachers from a configuration: opened, matched with the images and identities, and put to work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain import losses
from facetrain.config import Config
from facetrain.config.distillation import DistillationConfig, TeacherConfig
from facetrain.data.manifest import read_label_map
from facetrain.distillation.beside import attach
from facetrain.distillation.cost import measure_cost
from facetrain.distillation.distiller import Distiller, Lesson
from facetrain.distillation.kinds import kind_of_teacher, model_folder
from facetrain.distillation.slicing import slice_weights
from facetrain.distillation.store import EmbeddingStore
from facetrain.distillation.stored_teacher import StoredTeacher
from facetrain.distillation.teachers import open_teacher
from facetrain.distributed.runtime import Runtime
from facetrain.errors import InputError
from facetrain.experiment.distillation_check import ramp_points
from facetrain.experiment.faces import Faces
from facetrain.losses import DISTILLATION_LOSSES
from facetrain.losses.base import FaceLoss
from facetrain.losses.taught import DistillationLoss
from facetrain.models import FaceRecognizer
from facetrain.models.array_file import assign
from facetrain.models.head_change import regrouped
from facetrain.models.head_file import HeadFile
from facetrain.progress import say
from facetrain.training.run_directory import RunDirectory

_KEY = "distillation"


@dataclass(frozen=True)
class Teaching:
    """The teachers of a run, ready.

    Attributes:
        wanted: the section of the configuration.
        lessons: one for each teacher.
    """

    wanted: DistillationConfig
    lessons: tuple[Lesson, ...]

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Adds to batches what teachers say that do not compute in the train step."""
        return attach(dataset, [lesson.teacher for lesson in self.lessons])

    def loss(self, spec: Mapping[str, Any], steps_per_epoch: int, batch_size: int) -> FaceLoss:
        """Returns the loss of a stage: that on labels and those against teachers, with their weights."""
        members, ramps = [losses.get(dict(spec))], [self.wanted.label_weight]
        for one in self.wanted.losses:
            arguments = dict(one)
            ramps.append(arguments.pop("weight", 1.0))
            members.append(DISTILLATION_LOSSES.build(arguments))
        points = [ramp_points(ramp, f"{_KEY}: a weight", steps_per_epoch, batch_size) for ramp in ramps]
        return DistillationLoss(members, points)

    def recognizer(self, embedding_model: keras.Model, head: keras.layers.Layer, scaling: str) -> Distiller:
        """Returns the student with its head, not compiled."""
        layers = [tuple(pair) for one in self.wanted.losses for pair in one.get("layers", ())]
        student = Distiller(embedding_model, head, self.lessons, scaling, self.wanted.several, layers)
        if self.wanted.slice:
            slice_weights(self.lessons[0].teacher.model, embedding_model)
        if self.wanted.centres == "teacher":
            self._begin_with_centres(student)
        return student

    def describe(self) -> dict[str, Any]:
        """Returns what the manifest says about the teachers."""
        paths = [teacher.path for teacher in self.wanted.given]
        described = [
            {"path": path, "weight": lesson.weight, "view": "as the student's", **lesson.teacher.describe()}
            for path, lesson in zip(paths, self.lessons)
        ]
        return {"teachers": described, "losses": self.wanted.losses, "several": self.wanted.several}

    def cost(
        self, recognizer: FaceRecognizer, config: Config, runtime: Runtime, show: bool
    ) -> Optional[dict[str, Any]]:
        """Measures what the teachers cost, and says it; None where it is not to be measured or cannot be."""
        samples = getattr(recognizer.head, "needs_labels", False)
        if not self.wanted.measure or samples or runtime.replicas_in_sync > 1:
            return None
        batch = config.data.batch_size // runtime.world
        found = measure_cost(recognizer, batch, config.data.size)
        teachers = ", ".join("stored" if rate is None else f"{rate:.0f}" for rate in found["teachers"])
        say(
            f"images/s of a step: student alone {found['student']:.0f}, with its teachers {found['together']:.0f} "
            f"(teachers alone: {teachers})",
            show,
        )
        return found

    def refuse_others(self, before: Mapping[str, Any], where: Any) -> None:
        """Refuses other teachers than those a run began with.

        Args:
            before: what the manifest says about them.
            where: the run, for the message.
        Raises:
            InputError: if a digest differs.
        """
        known = [teacher.get("digest") for teacher in before.get("teachers", ())]
        now = [lesson.teacher.describe()["digest"] for lesson in self.lessons]
        if known != now:
            paths = ", ".join(teacher.path for teacher in self.wanted.given)
            raise InputError(
                f"{where}: the teachers ({paths}) are no longer those the run began with; restore them, or start a new "
                "run"
            )

    def _begin_with_centres(self, student: FaceRecognizer) -> None:
        (lesson,) = self.lessons
        ours = getattr(student.head, "centres", None)
        if lesson.centres is None or ours is None:
            whose = "the teacher" if lesson.centres is None else "this head"
            raise InputError(f"{_KEY}.centres: {whose} has no class centres; set {_KEY}.head, or centres to 'own'")
        if lesson.centres.shape[-1] != ours.shape[-1]:
            raise InputError(
                f"{_KEY}.centres: the teacher's have {lesson.centres.shape[-1]} values, the student's embedding "
                f"{ours.shape[-1]}: make model.embedding_size equal, or set centres to 'own'"
            )
        assign(ours, regrouped(lesson.centres, ours.shape[1] if len(ours.shape) == 3 else 1))


def open_teaching(config: Config, faces: Faces, runtime: Runtime, show_progress: bool) -> Optional[Teaching]:
    """Opens the teachers of a configuration; None if it has none.

    Args:
        config: checked.
        faces: the training images.
        runtime: the device or devices on which the teachers compute.
        show_progress: show on stderr how far the looking up of stored embeddings is.
    Raises:
        InputError: if a teacher is damaged, does not know the images or the identities, or does not fit the student.
    """
    wanted = config.distillation
    if wanted is None:
        return None
    show = show_progress and runtime.is_chief
    with runtime.scope():
        lessons = tuple(_lesson(teacher, wanted, config, faces, show) for teacher in wanted.given)
    return Teaching(wanted, lessons)


def describe_teaching(
    teaching: Optional[Teaching], recognizer: FaceRecognizer, config: Config, runtime: Runtime, show_progress: bool
) -> dict[str, Any]:
    """Returns what the manifest says about a distillation, its cost included; nothing where there is none."""
    if teaching is None:
        return {}
    cost = teaching.cost(recognizer, config, runtime, show_progress and runtime.is_chief)
    return {"distillation": {**teaching.describe(), "images_per_second": cost}}


def _lesson(given: TeacherConfig, wanted: DistillationConfig, config: Config, faces: Faces, show: bool) -> Lesson:
    if kind_of_teacher(given.path) == "store":
        store = EmbeddingStore(given.path)
        size = config.model.embedding_size
        kept = np.arange(len(faces.labels)) if faces.kept is None else faces.kept
        shortened = size if wanted.sizes == "pca" and store.size != size else None
        teacher: Any = StoredTeacher(store, store.rows_of(faces.source, kept, show), shortened)
    else:
        teacher = open_teacher(given.path, given.contract)
    return Lesson(teacher, given.weight, _centres(given, wanted, teacher, faces))


def _centres(given: TeacherConfig, wanted: DistillationConfig, teacher: Any, faces: Faces) -> Optional[np.ndarray]:
    """Returns the teacher's class centres by the labels of the training images, if anything needs them."""
    kinds = {one.get("centres", "teacher") for one in wanted.losses if one["name"] == "kl"}
    if wanted.centres != "teacher" and not kinds & {"teacher", "shared"}:
        return None
    run = _run_of(given)
    if run is None or not run.head.is_dir() or not run.label_map.is_file():
        raise InputError(
            f"{_KEY}.head: the teacher's class centres are wanted, but {given.head or given.path} is no run with a "
            "saved head; give the run directory of the teacher"
        )
    stored, names = HeadFile(run.head), read_label_map(run.label_map).names
    stored.check_identities(names)
    stored.check_digests()
    size = teacher.embedding_size if teacher.kind != "store" else teacher.store.size
    if stored.embedding_size != size:
        raise InputError(
            f"{_KEY}.head: the centres of {run.path} have {stored.embedding_size} values, the teacher's embedding "
            f"{size}: give its own run"
        )
    if teacher.kind == "store" and teacher.embedding_size != size:
        raise InputError(f"{_KEY}.sizes: class centres are those of whole embeddings: set it to 'project'")
    return regrouped(np.asarray(stored), 1)[_labels(run, names, faces)]


def _run_of(given: TeacherConfig) -> Optional[RunDirectory]:
    """Returns the run directory whose head is the teacher's, if there is one."""
    if given.head is not None:
        return RunDirectory.open(given.head)
    if kind_of_teacher(given.path) != "keras":
        return None
    folder = model_folder(given.path)
    run = RunDirectory(folder.parent)
    return run if run.config.is_file() and folder.name == Path(run.best).name else None


def _labels(run: RunDirectory, names: list[str], faces: Faces) -> np.ndarray:
    """Returns the teacher's label of each identity of the training images, int64 [C]."""
    identities = list(faces.source.identities)
    if names == identities:
        return np.arange(len(names))
    known = {name: label for label, name in enumerate(names)}
    missing = [name for name in identities if name not in known]
    named = run.read_manifest().get("data", {}).get("named", not all(name.isdigit() for name in names))
    if missing or not (named and faces.source.has_names):
        unknown = f"does not know {len(missing)} identities, such as {', '.join(missing[:1])}"
        raise InputError(
            f"{_KEY}.head: the head of {run.path} {unknown if missing else 'has numbers, not names'}: its classes are "
            "not those of the training images; use the loss 'cosine', or 'kl' with centres 'student'"
        )
    return np.array([known[name] for name in identities], np.int64)

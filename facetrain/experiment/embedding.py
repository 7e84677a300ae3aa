"""Embeddings of a data set by a teacher, stored for training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from facetrain.config import load_config
from facetrain.data.sources import FaceSource, open_source
from facetrain.distillation.embedding import EmbedOptions, embed_source
from facetrain.distillation.teachers import open_teacher
from facetrain.experiment.faces import open_training_source
from facetrain.files import PathLike

_CONFIGS = (".yaml", ".yml")


def embed(
    teacher: PathLike,
    data: PathLike,
    out: PathLike,
    options: Optional[EmbedOptions] = None,
    contract: Optional[Mapping[str, Any]] = None,
) -> dict[str, Any]:
    """Stores the embeddings of all images of a data set; goes on where an earlier call was stopped.

    Args:
        teacher: model folder or run, ``.onnx`` or ``.tflite`` file.
        data: data set, as ``open_source`` takes it; or a config file, whose training images are meant.
        out: folder to write.
        options: how.
        contract: of an ``.onnx`` file from elsewhere.
    Returns:
        as ``facetrain.distillation.embed_source``.
    Raises:
        InputError: for a bad teacher or data set, or an ``out`` that is taken.
    """
    source = open_data(data)
    return embed_source(open_teacher(teacher, contract), source, out, options or EmbedOptions())


def open_data(data: PathLike) -> FaceSource:
    """Opens a data set, or that of the training images of a config file."""
    path = Path(data)
    if path.suffix.lower() in _CONFIGS and path.is_file():
        length = ["train.epochs=null", "stages=[{epochs: 1}]"]  # a base may leave it open, and it does not matter here
        return open_training_source(load_config(path, length))
    return open_source(data)


def shard_of_launch() -> tuple[int, int]:
    """Returns number and count of the processes that ``horovodrun`` started; (0, 1) without it."""
    return int(os.environ.get("HOROVOD_RANK", "0")), int(os.environ.get("HOROVOD_SIZE", "1"))

"""Exporting an embedding model: write, read back, compare, and only then put in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.export.float32 import to_float32
from facetrain.export.formats import EXPORTERS
from facetrain.export.layer_errors import LayerError
from facetrain.export.parity import EmbedFunction, agrees, check_parity, generated_images, measure_parity
from facetrain.files import PathLike, atomic_folder, atomic_path
from facetrain.images import scale_pixels
from facetrain.models.contract import Contract

_BATCH = 32


class Exporter(Protocol):
    """What a format provides.

    Attributes:
        is_folder: whether the format is a folder rather than a file.
        lowest_cosine: lowest agreement with the source that is accepted.
        judged_by: ``"min"`` if every image must reach it, ``"mean"`` if their mean must.
    """

    is_folder: bool
    lowest_cosine: float
    judged_by: str

    def target(self, out: Path) -> Path:
        """Returns the file or folder that ``out`` means."""

    def write(self, model: keras.Model, contract: Contract, path: Path) -> None:
        """Writes a float32 model to ``path``."""

    def load(self, path: Path) -> EmbedFunction:
        """Returns the embedding function of what was written."""

    def finish(self, path: Path, contract: Contract) -> None:
        """Writes what lies beside the model, once that is in place."""


@dataclass(frozen=True)
class ExportResult:
    """An export that was made and checked.

    Attributes:
        path: file or folder.
        format: name of the format.
        bytes: size of the file, or of all files of the folder.
        max_abs_diff: largest difference of a component of the unit-length embeddings.
        min_cosine: smallest cosine between the embeddings of source and export.
        num_images: images that parity was measured on.
        on_real_crops: whether those were given, rather than generated patterns.
        mean_cosine: mean of the cosines.
        forced: whether the export stays below the gate of its format and was written all the same.
        layer_errors: error of each layer of a model in int8, the largest first; empty for other formats.
    """

    path: str
    format: str
    bytes: int
    max_abs_diff: float
    min_cosine: float
    num_images: int
    on_real_crops: bool
    mean_cosine: float
    forced: bool = False
    layer_errors: tuple[LayerError, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        return asdict(self)


def export_model(
    model: keras.Model,
    contract: Mapping[str, Any] | Contract,
    out: PathLike,
    format: str | Mapping[str, Any] = "savedmodel",
    parity_images: np.ndarray | None = None,
    force: bool = False,
) -> ExportResult:
    """Writes an embedding model in a format for deployment and proves that it still gives the same embeddings.

    The export computes in float32, whatever precision the model was trained in. It is written under a temporary name,
    read back by the format's own runtime and compared with the float32 model; only an export that agrees is put in
    place.

    Args:
        model: scaled pixels [B, S, S, 3] -> embeddings [B, D].
        contract: the model's contract, or its values.
        out: file or folder to write; a folder of other things receives the export under a usual name.
        format: a name of ``EXPORTERS``, or ``{"name": ..., **arguments}``; ``tflite_int8`` needs ``representative``.
        parity_images: face crops uint8 [N, S, S, 3] to compare on; smooth random patterns by default, which tell less.
        force: put the export in place also where its embeddings stay below the gate of the format.

    Raises:
        InputError: for an unknown format, a contract or images that do not fit the model.
        ExportError: if the format cannot express the model, or the export gives other embeddings.
    """
    exporter: Exporter = EXPORTERS.build(format)
    contract = contract if isinstance(contract, Contract) else Contract.from_dict(contract)
    _check_model(model, contract)
    images = _check_images(parity_images, contract.input_size)
    twin = to_float32(model)
    target = exporter.target(Path(out))
    with (atomic_folder if exporter.is_folder else atomic_path)(target) as temporary:
        exporter.write(twin, contract, temporary)
        parity = measure_parity(_embed_function(twin, contract.scaling), exporter.load(temporary), images)
        accepted = agrees(parity, exporter.lowest_cosine, exporter.judged_by)
        if not force:
            check_parity(parity, exporter.lowest_cosine, f"'{target}'", exporter.judged_by)
    exporter.finish(target, contract)
    return ExportResult(
        path=str(target),
        format=format if isinstance(format, str) else str(format["name"]),
        bytes=sum(path.stat().st_size for path in [target, *target.rglob("*")] if path.is_file()),
        on_real_crops=parity_images is not None,
        forced=not accepted,
        layer_errors=tuple(getattr(exporter, "layer_errors", ())),
        **parity._asdict(),
    )


def _check_model(model: keras.Model, contract: Contract) -> None:
    size = contract.input_size
    expected = [(None, size, size, 3), (None, contract.embedding_size)]
    received = [model.input_shape, model.output_shape]
    if received != expected:
        raise InputError(
            f"the contract describes a model {expected[0]} -> {expected[1]}, model {model.name!r} is {received[0]} -> "
            f"{received[1]}; export it with its own contract"
        )


def _check_images(images: np.ndarray | None, size: int) -> np.ndarray:
    if images is None:
        return generated_images(size)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3) or not len(images):
        raise InputError(
            f"parity is measured on crops, uint8 of shape [N, {size}, {size}, 3], received {images.dtype} of shape "
            f"{list(images.shape)}"
        )
    return images


def _embed_function(model: keras.Model, scaling: str) -> EmbedFunction:
    def embed(images: np.ndarray) -> np.ndarray:
        batches = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
        return np.concatenate([model(scale_pixels(batch, scaling), training=False).numpy() for batch in batches])

    return embed

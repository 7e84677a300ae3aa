"""Starting from the weights of another run: the embedding model's, and the centres of people that both know."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from facetrain.config import Config
from facetrain.config.schema import InitConfig
from facetrain.errors import InputError
from facetrain.experiment.faces import Faces
from facetrain.experiment.origin import Origin, open_origin
from facetrain.models import Contract
from facetrain.models.embedding_model import embedding_function
from facetrain.models.known_identities import (
    IdentityMatch,
    carry_known,
    match_identities,
    mean_embeddings,
    mean_length,
    set_directions,
)
from facetrain.models.recognizer import FaceRecognizer
from facetrain.models.weights import load_embedding_weights
from facetrain.progress import track

_BATCH = 64
_log = logging.getLogger(__name__)


def initialise(
    recognizer: FaceRecognizer,
    contract: Contract,
    init: InitConfig,
    faces: Faces,
    identities: Sequence[str],
    show_progress: bool,
) -> dict[str, Any]:
    """Gives a new recogniser the weights of another run.

    Args:
        recognizer: compiled, not trained yet.
        contract: of its embedding model.
        init: what to take, and from where.
        faces: the training images.
        identities: their names in the order of the labels.
        show_progress: show how far the embedding of new people is.
    Returns:
        where the weights came from, and how many centres were ``kept``, are ``new``, and were ``dropped``.
    Raises:
        InputError: if there are no such weights, they belong to another model, or it is not known who is who.
    """
    origin = open_origin(init)
    _same_contract(origin.contract, contract, init)
    load_embedding_weights(recognizer.embedding_model, origin.weights, f"init.from: {init.origin}")
    if recognizer.average is not None:
        recognizer.average.restart()
    if init.head == "drop":
        return {**origin.where, "head": init.head}
    match = _match(origin, init, faces, identities)
    centres = getattr(recognizer.head, "centres", None)
    if centres is None:
        raise InputError("init.head: this head has no centres to begin with: set it to 'drop'")
    if match.kept:
        carry_known(centres, origin.centres, match)
    everybody = np.arange(len(identities))
    length = mean_length(centres, np.setdiff1d(everybody, match.added) if match.kept else everybody)
    if len(match.added):
        embed = embedding_function(recognizer.embedding_model, contract.scaling)
        batches = _crops_of(faces, match.added, show_progress)
        means = mean_embeddings(embed, batches, match.added, contract.embedding_size)
        set_directions(centres, match.added, means, length)
    counts = {"kept": match.kept, "new": len(match.added), "dropped": match.dropped}
    _log.info("class centres from %s: %s", init.origin, counts)
    return {**origin.where, "head": init.head, **counts}


def start_from(trainer: Any, config: Config, faces: Faces, identities: Sequence[str], show: bool) -> dict[str, Any]:
    """As ``initialise``, for the trainer of a config; does nothing, and returns nothing, where it has no ``init``."""
    if config.init is None:
        return {}
    found = initialise(
        trainer.recognizer, trainer.contract, config.init, faces, identities, show and trainer.runtime.is_chief
    )
    return {"init": found}


def _same_contract(theirs: Contract, ours: Contract, init: InitConfig) -> None:
    keys = {"input_size": "data.size", "embedding_size": "model.embedding_size", "scaling": "model.scaling"}
    for field, key in keys.items():
        expected, received = getattr(theirs, field), getattr(ours, field)
        if expected != received:
            raise InputError(
                f"init.from: the model of {init.origin} has {field} {expected!r}, but {key} is {received!r}: make them "
                "equal"
            )


def _match(origin: Origin, init: InitConfig, faces: Faces, identities: Sequence[str]) -> IdentityMatch:
    if init.head == "new" or origin.centres is None:
        if init.head == "auto":
            _log.warning("%s has no saved head: all class centres begin as the mean of their images", init.origin)
        return match_identities([], identities)
    if origin.centres.shape[-1] != origin.contract.embedding_size:
        raise InputError(f"init.from: the head of {init.origin} belongs to another model; set init.head to 'new'")
    if origin.identities != list(identities) and not (origin.named and faces.source.has_names):
        whose = "the images" if origin.named else init.origin
        raise InputError(
            f"init.head: the identities of {whose} are numbers, not names, and the two label maps differ: whether a "
            "number is the same person is not known; give names, or set init.head to 'new' or 'drop'"
        )
    return match_identities(origin.identities, identities)


def _crops_of(faces: Faces, labels: np.ndarray, show: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields crops of some identities and their labels, in batches of one size: the last one is filled up."""
    indices = np.flatnonzero(np.isin(faces.labels, labels))
    for start in track(range(0, len(indices), _BATCH), "embedding new people", show=show):
        asked = indices[start : start + _BATCH]
        crops, taken = _pixels(faces.images, asked)
        # An unreadable image was replaced by another one, which has its own turn.
        of = np.where(taken == asked, faces.labels[asked], -1)
        fill = _BATCH - len(asked)
        yield np.concatenate([crops, np.repeat(crops[:1], fill, axis=0)]), np.concatenate([of, np.full(fill, -1)])


def _pixels(images: Any, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns crops as they are cached (of several versions, the first epoch's), and which images they are."""
    if hasattr(images, "gather"):
        return images.gather(indices)
    if hasattr(images, "rows_of"):
        return np.asarray(images.rows[images.rows_of(0, indices)]), indices
    return np.asarray(images[indices]), indices

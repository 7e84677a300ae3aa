"""Training images from a configuration: the source and its decoded cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.config import Config
from facetrain.data.cache import DecodedCache
from facetrain.data.decoding import DecodingImages
from facetrain.data.sources import FaceSource, kind_of, open_source, require_trainable
from facetrain.data.subset_source import SubsetSource
from facetrain.data.variants import Variants
from facetrain.experiment.distillation_check import learns_without_labels


@dataclass(frozen=True)
class Faces:
    """Training images ready to be gathered, and what must be known about them."""

    images: Any
    labels: np.ndarray
    num_identities: int
    fingerprint: str
    name_of: Callable[[int], str]
    source: FaceSource
    # Which images of the source they are; None: all of them, in order.
    kept: np.ndarray | None = None


def build_faces(config: Config, show_progress: bool) -> Faces:
    """Opens the source of training images and its decoded cache."""
    data = config.data
    source = open_training_source(config)
    if not learns_without_labels(config):
        require_trainable(source)
    if data.cache == "none":
        images = DecodingImages(source, data.size, on_unreadable=data.on_unreadable)
        return Faces(images, source.labels, source.num_identities, source.fingerprint(), source.names, source)
    variants = Variants(data.variants, data.augment, config.seed) if data.variants else None
    options = {"on_unreadable": data.on_unreadable, "show_progress": show_progress, "variants": variants}
    if data.cache == "memory":
        cache = DecodedCache.open_in_memory(source, data.size, **options)
    else:
        cache = DecodedCache.open_or_build(source, data.size, data.cache_dir or default_cache_dir(), **options)

    def name_of(index: int) -> str:
        return source.names(int(cache.kept[index]))

    return Faces(cache.images, cache.labels, source.num_identities, source.fingerprint(), name_of, source, cache.kept)


def default_cache_dir() -> Path:
    """Returns the folder of decoded caches: below ``$XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facetrain" / "decoded"


def open_training_source(config: Config) -> FaceSource:
    """Opens the source of training images; nothing is decoded."""
    data = config.data
    if data.sources:
        source = open_source({"kind": "concat", "sources": data.sources, "identities": data.identities})
    elif data.path is None:
        return open_source({"kind": "synthetic", **data.synthetic.model_dump()})
    else:
        options: dict[str, Any] = {"path": data.path, "kind": kind_of(data.path) if data.kind == "auto" else data.kind}
        if data.landmarks is not None:
            options["landmarks"] = data.landmarks
        if options["kind"] == "folder":
            return open_source({**options, "min_images": data.min_images})
        source = open_source(options)
    return SubsetSource(source, min_images=data.min_images) if data.min_images > 1 else source

"""The files of a decoded cache: what names them, how they are written, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from facetrain.align import arcface_template
from facetrain.data.decoding import read_crops, refusal
from facetrain.data.sources import FaceSource
from facetrain.data.variants import Variants
from facetrain.errors import InputError
from facetrain.files import atomic_folder, remove_leftovers, write_json
from facetrain.progress import track

_log = logging.getLogger(__name__)

_FORMAT_VERSION = 1
"""Raise it when the files of a cache, or the way in which an encoded image becomes pixels, change."""

PIXELS = "images.u8"
META = "meta.json"
_SAMPLED_ROWS = 64


class Recipe(NamedTuple):
    """What a cache is made of.

    Attributes:
        source: the images.
        size: side of the cached images in pixels.
        variants: what is kept of each image in place of the image itself, if anything.
        on_unreadable: ``"skip"`` or ``"fail"``.
        show_progress: whether to show on stderr how far the building is.
        workers: threads; None takes one per processor.
    """

    source: FaceSource
    size: int
    variants: Optional[Variants] = None
    on_unreadable: str = "skip"
    show_progress: bool = False
    workers: Optional[int] = None

    @property
    def key(self) -> str:
        """Name of the folder: a digest of all that decides what is in it."""
        template = arcface_template(self.size).tolist()
        parts = ["facetrain decoded cache", _FORMAT_VERSION, self.source.fingerprint(), self.size, template]
        parts += self.variants.key() if self.variants else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    @property
    def num_bytes(self) -> int:
        """How many bytes the cache takes at most."""
        return self.source.num_images * self.rows_per_image * self.size * self.size * 3

    @property
    def rows_per_image(self) -> int:
        """How many rows of the file an image has."""
        return self.variants.count if self.variants else 1


def build_files(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Writes a cache under a temporary name and renames it; the caller holds the lock.

    Returns:
        its description.

    Raises:
        InputError: if an image is unreadable and must not be, or if none is readable.
        OSError: if it cannot be written.
    """
    remove_files(folder)
    count = recipe.source.num_images
    left_out: list[tuple[int, str, str]] = []
    with atomic_folder(folder) as temporary:
        with open(temporary / PIXELS, "wb") as file:
            make = recipe.variants.make if recipe.variants else None
            crops = read_crops(recipe.source, recipe.size, recipe.workers, make)
            for index, crop in enumerate(track(crops, "decoding", count, recipe.show_progress)):
                # Plain writes: a full disk is an error here, but kills a process that writes to a memory map.
                if isinstance(crop, np.ndarray):
                    file.write(crop)
                elif recipe.on_unreadable == "fail":
                    raise refusal([crop])
                else:
                    left_out.append((index, *crop))
        if len(left_out) == count:
            _, name, reason = left_out[0]
            raise InputError(f"none of the {count} images is readable, the first is {name!r}: {reason}")
        shape = ((count - len(left_out)) * recipe.rows_per_image, recipe.size, recipe.size, 3)
        digest = sampled_digest(temporary / PIXELS, shape)
        meta = {"key": folder.name, "shape": shape, "left_out": left_out, "digest": digest}
        write_json(temporary / META, meta)
    return meta


def read_meta(folder: Path) -> dict[str, Any] | None:
    """Returns the description of a whole and undamaged cache of the folder's name, or None."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        shape = meta["shape"]
        if meta["key"] == folder.name and (folder / PIXELS).stat().st_size == int(np.prod(shape, dtype=np.int64)):
            if sampled_digest(folder / PIXELS, shape) == meta["digest"]:
                return meta
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.lexists(folder):
            return None
    except (ValueError, KeyError, TypeError):
        pass  # a description that is none: as damaged as the wrong size or digest
    _log.warning("the cache %s is damaged or incomplete; it is built again", folder)
    return None


def sampled_digest(path: Path, shape: Any) -> str:
    """Returns the digest of some rows spread over the file, first and last among them."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64))
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for row in np.unique(np.linspace(0, shape[0] - 1, _SAMPLED_ROWS).astype(np.int64)):
            file.seek(int(row) * row_bytes)
            digest.update(file.read(row_bytes))
    return digest.hexdigest()


def remove_files(folder: Path) -> None:
    """Removes a cache, or whatever stands in its place, and what killed builders left; the caller holds the lock."""
    remove_leftovers(folder.parent, folder.name)
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def megabytes(count: int) -> str:
    """Returns a number of bytes as people read it."""
    return f"{count / 1e6:,.3f} MB" if count < 1e6 else f"{count / 1e6:,.0f} MB"

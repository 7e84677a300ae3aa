"""Images on disk: a folder with one subfolder per identity."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from facetrain.align import find_landmarks, read_landmarks
from facetrain.data.damage import Place
from facetrain.data.name_list import NameList
from facetrain.data.paths import without_suffix
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import ImageError, is_image_file

_log = logging.getLogger(__name__)


class FolderSource(FaceSource):
    """Images in one subfolder per identity; identities and images are taken in the order of their names.

    Subfolders of an identity are read too. Hidden files and files that are no images are passed over.

    Args:
        path: the folder that holds the identities.
        landmarks: ``{"identity/image.jpg": [5, 2] pixels}``, or a CSV file as ``facetrain.align.read_landmarks``
            takes it. Images are then aligned; those without landmarks count as unreadable.
        min_images: identities with fewer images are left out.

    Raises:
        InputError: if the folder is missing, holds no images, or none of an identity is left, or if the landmarks
            belong to other images.
    """

    def __init__(
        self, path: PathLike, landmarks: PathLike | Mapping[str, np.ndarray] | None = None, min_images: int = 1
    ):
        self.path = Path(path)
        if min_images < 1:
            raise InputError(f"min_images is 1 or more, received {min_images}")
        self.identities: list[str] = []
        self._names, stamps, counts, most, total = NameList(), array("q"), array("q"), 0, 0
        for identity, files in _scan_identities(self.path):
            total, most = total + 1, max(most, len(files))
            if len(files) < min_images:
                continue
            self.identities.append(identity)
            counts.append(len(files))
            for name, *stamp in files:
                self._names.append(name)
                stamps.extend(stamp)
        if not counts:
            raise InputError(
                f"none of the {total} identities in {str(self.path)!r} has {min_images} images, "
                f"the largest has {most}; lower min_images"
            )
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._stamps = np.frombuffer(stamps, np.int64).reshape(-1, 2)
        if landmarks is not None:
            self.landmarks = match_landmarks(landmarks, self._names, self.path)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:  # noqa: D102 - see FaceSource
        return [read_file(self.path / self._names[index]) for index in indices]

    def fingerprint(self) -> str:
        """Returns a digest of names, sizes and times of change of the files, and of the landmarks."""
        digest = hashlib.sha256(b'["folder", ')
        for piece in self._names.as_json():
            digest.update(piece.encode())
        digest.update(f", {json.dumps(self.identities)}]".encode())
        digest.update(self._stamps.tobytes())
        if self.landmarks is not None:
            digest.update(self.landmarks.tobytes())
        return digest.hexdigest()

    def names(self, index: int) -> str:
        """Returns the path of image ``index`` below the folder."""
        return self._names[index]

    def place(self, index: int) -> Place:  # noqa: D102 - see FaceSource
        return Place(str(self.path / self._names[index]))

    def stem(self, index: int) -> str:
        """Returns the path of image ``index`` below its identity's folder, in one word and without its suffix."""
        return without_suffix(self._names[index].partition("/")[2]).replace("/", "_")


def _scan_identities(root: Path) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Yields identities that have images, each with its sorted (relative path, bytes, mtime in ns)."""
    if not root.exists():
        raise InputError(f"the folder {str(root)!r} does not exist; check the path")
    if not root.is_dir():
        raise InputError(f"expected a folder with one subfolder of images per identity, but {str(root)!r} is a file")
    with os.scandir(root) as entries:
        children = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    if not children:
        raise InputError(f"the folder {str(root)!r} is empty; expected one subfolder of images per identity")
    found = 0
    for child in children:
        if child.is_dir():
            files = sorted(_scan_images(child.path, root))
            if files:
                found += 1
                yield child.name, files
    if not found:
        loose = sum(is_image_file(child.name) for child in children)
        seen = f"{loose} images directly in it" if loose else f"{len(children)} entries without an image"
        raise InputError(f"expected images in subfolders of {str(root)!r}, one per identity, found {seen}")


def _scan_images(folder: PathLike, root: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):  # a link to a folder above would never end
                yield from _scan_images(entry.path, root)
            elif is_image_file(entry.name):
                yield _stamp(entry, root)


def _stamp(entry: os.DirEntry, root: Path) -> tuple[str, int, int]:
    name = os.path.relpath(entry.path, root).replace(os.sep, "/")
    try:
        status = entry.stat()
    except OSError:  # a dangling link: it is named as unreadable when it is read
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def match_landmarks(landmarks: PathLike | Mapping[str, np.ndarray], names: Sequence[str], root: Path) -> np.ndarray:
    """Returns the landmarks of files below ``root``, float32 [N, 5, 2], NaN where a table has none for a name.

    Raises:
        InputError: if the table has none of the files, or cannot be read.
    """
    where = "the given landmarks" if isinstance(landmarks, Mapping) else repr(str(landmarks))
    table = landmarks if isinstance(landmarks, Mapping) else read_landmarks(landmarks)
    matched = np.full((len(names), 5, 2), np.nan, np.float32)
    with_landmarks = 0
    for index, name in enumerate(names):
        points = find_landmarks(table, name)
        if points is not None:
            matched[index] = points
            with_landmarks += 1
    if not with_landmarks:
        raise InputError(
            f"none of the {len(names)} images in {str(root)!r} has landmarks in {where}: "
            f"the folder has {names[0]!r}, the landmarks are for {next(iter(table), 'no image')!r}"
        )
    if len(table) > with_landmarks:
        unused = len(table) - with_landmarks
        _log.info("%d of %d landmarks in %s name no image of %s", unused, len(table), where, root)
    return matched


def read_file(path: Path) -> bytes:
    """Returns the content of an image file; raises ImageError that names it if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {str(path)!r}: {error.strerror or error}") from error

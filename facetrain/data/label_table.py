"""Lists that name images of a source: tables of further labels, and what is to be left out."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facetrain.data.paths import without_suffix
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike

_log = logging.getLogger(__name__)


class ImageNames:
    """Finds images by ``identity/name``, with or without suffix, or by the path that the source knows.

    Args:
        source: its images.
    """

    def __init__(self, source: FaceSource):
        self._found: dict[str, list[int]] = {}
        for index in range(source.num_images):
            for name in {source.key(index), without_suffix(source.names(index))}:
                self._found.setdefault(name, []).append(index)

    def find(self, name: str) -> list[int]:
        """Returns the numbers of the images of that name, usually one; none if there is no such image."""
        exact = self._found.get(name)
        return exact if exact is not None else self._found.get(without_suffix(name), [])


class Excluded(NamedTuple):
    """What a list leaves over.

    Attributes:
        kept: int64 [M], numbers of the images that stay.
        unknown: lines that name neither an identity nor an image.
    """

    kept: np.ndarray
    unknown: list[str]


def exclude(source: FaceSource, lines: Iterable[str]) -> Excluded:
    """Leaves out identities and images.

    Args:
        source: the data set.
        lines: names of identities or images, one each; empty ones are passed over.
    """
    identities = {name: number for number, name in enumerate(source.identities)}
    kept = np.ones(source.num_images, bool)
    unknown: list[str] = []
    images: ImageNames | None = None
    for line in filter(None, (line.strip() for line in lines)):
        if line in identities:
            kept[source.labels == identities[line]] = False
            continue
        images = images or ImageNames(source)
        found = images.find(line)
        if not found:
            unknown.append(line)
        kept[found] = False
    return Excluded(np.flatnonzero(kept), unknown)


def read_lines(path: PathLike) -> list[str]:
    """Returns the lines of a text file; raises InputError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error


def read_labels(path: PathLike, source: FaceSource) -> tuple[list[str], np.ndarray]:
    """Reads further labels of images.

    Args:
        path: CSV table with a header: the column ``path`` (``identity/name``, as ``ImageNames`` finds it) and columns
            of numbers; empty cells are NaN.
        source: whose images the lines name.
    Returns:
        the names of the columns, and float32 [N, K], NaN for images without a line.
    Raises:
        InputError: for a malformed table, an image twice, or a table that names no image of the source.
    """
    reader = csv.reader(read_lines(path))
    header = [name.strip() for name in next(reader, [])]
    if "path" not in header or len(header) < 2 or len(set(header)) != len(header):
        what = f"expected a header with path and further columns, received {','.join(header)[:80] or 'nothing'!r}"
        raise InputError(f"{path}, line 1: {what}")
    at = header.index("path")
    images = ImageNames(source)
    values = np.full((source.num_images, len(header) - 1), np.nan, np.float32)
    known, unknown = np.zeros(source.num_images, bool), []
    for row in filter(None, reader):
        numbers = _numbers(row, header, at, f"{path}, line {reader.line_num}")
        found = images.find(row[at].strip())
        if known[found].any():
            raise InputError(f"{path}, line {reader.line_num}: expected each image once, received {row[at]!r} again")
        values[found], known[found] = numbers, True
        if not found:
            unknown.append(row[at])
    if not known.any():
        seen = repr(unknown[0]) if unknown else "no image"
        raise InputError(f"{path}: expected names like {source.key(0)!r}, received {seen}")
    if unknown or not known.all():
        what = "%s: %d lines name no image of the data set (first %r), %d of %d images have no line"
        _log.warning(what, path, len(unknown), (unknown or [""])[0], int((~known).sum()), source.num_images)
    return [name for name in header if name != "path"], values


def _numbers(row: list[str], header: list[str], at: int, where: str) -> list[float]:
    if len(row) != len(header):
        raise InputError(f"{where}: expected {len(header)} values as in the header, received {len(row)}")
    numbers = []
    for place, text in enumerate(row):
        if place == at:
            continue
        try:
            numbers.append(float(text) if text.strip() else float("nan"))
        except ValueError:
            raise InputError(f"{where}: expected a number as {header[place]}, received {text!r}") from None
    return numbers

"""What lists of image files share: files below a root, read when they are asked for."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facetrain.data.folder_source import read_file
from facetrain.data.paths import below, without_suffix
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike

_log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """One line: its number, the path, the identity, and further values."""

    line: int
    path: str
    identity: Any
    values: Sequence[float]


class ListSource(FaceSource):
    """What the two kinds of lists share: files below a root, read when they are asked for."""

    def __init__(self, path: PathLike, root: PathLike | None, allow_absolute: bool, on_missing: str):
        if on_missing not in ("fail", "skip"):
            raise InputError(f"on_missing is 'fail' or 'skip', received {on_missing!r}")
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self._allow_absolute, self._on_missing = allow_absolute, on_missing

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:  # noqa: D102 - see FaceSource
        return [read_file(self._file(self._names[index])) for index in indices]

    def fingerprint(self) -> str:
        """Returns a digest of names, identities, labels and landmarks, and of sizes and times of change of files."""
        digest = hashlib.sha256(json.dumps(["list", self._names, self.identities]).encode())
        for part in (self.labels, self._stamps, self.landmarks, self.extra_labels):
            digest.update(b"-" if part is None else part.tobytes())
        return digest.hexdigest()

    def names(self, index: int) -> str:
        """Returns the path of image ``index`` as the list has it."""
        return self._names[index]

    def stem(self, index: int) -> str:
        """Returns the name of the file of image ``index``, without suffix."""
        return without_suffix(self._names[index].replace("\\", "/").rpartition("/")[2])

    def _file(self, name: str) -> Path:
        return below(self.root, name, self._allow_absolute)

    def take(self, listed: list[Listed]) -> list[Listed]:
        """Keeps the lines whose files are there; refuses paths that leave the root, and an empty list."""
        if not listed:
            raise InputError(f"{self.path}: expected at least one image, the list has none")
        kept, stamps, missing = [], [], []
        for one in listed:
            try:
                status = self._file(one.path).stat()
            except InputError as error:
                raise InputError(f"{self.path}, line {one.line}: {error}") from None
            except OSError:
                missing.append(one)
                continue
            kept.append(one)
            stamps.append((status.st_size, status.st_mtime_ns))
        if missing:
            what = f"line {missing[0].line}: the image {missing[0].path!r} is not below {str(self.root)!r}"
            what += f" ({len(missing)} of {len(listed)} images are missing)"
            if self._on_missing == "fail" or not kept:
                raise InputError(f"{self.path}, {what}; give the right root, or set on_missing to 'skip'")
            _log.warning("%s, %s; they are left out", self.path, what)
        self._names = [one.path for one in kept]
        self._stamps = np.array(stamps, np.int64)
        return kept

    def lines(self) -> Iterator[str]:
        """Yields the lines of the list; raises InputError if it cannot be read."""
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as handle:
                yield from handle
        except OSError as error:
            raise InputError(f"cannot read the list {str(self.path)!r}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: expected a list in UTF-8, received something else: {error}") from error


def parse_number(text: str) -> float | None:
    """Returns a number, NaN for an empty cell, or None for anything else."""
    try:
        return float(text) if text.strip() else float("nan")
    except ValueError:
        return None

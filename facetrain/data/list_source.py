"""Image files that a list names: a ``.lst`` as MXNet's im2rec takes it, or a CSV table."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from facetrain.data.folder_source import match_landmarks
from facetrain.data.listed_files import Listed, ListSource, parse_number
from facetrain.data.record_source import IDENTITIES_FILE, identity_names
from facetrain.errors import InputError
from facetrain.files import PathLike

_log = logging.getLogger(__name__)

_POINTS = tuple(f"{axis}{point}" for point in range(1, 6) for axis in "xy")


class LstSource(ListSource):
    """The images of a ``.lst`` file: lines ``index<TAB>label<TAB>path``, with any number of labels.

    The first label is the identity, a whole number; further ones become ``extra_labels``. Identities are numbered anew
    without gaps in ascending order, and called by their number or by their name in ``identities.txt`` beside the list.

    Args:
        path: the list.
        root: folder of the paths; by default that of the list.
        landmarks: five points per image, as ``FolderSource`` takes them.
        allow_absolute: whether paths may be absolute.
        on_missing: ``"fail"`` raises if a file is missing, ``"skip"`` leaves it out with a warning.
    Raises:
        InputError: for a line that is not of this form, a path that leaves the root, or a missing file.
    """

    def __init__(
        self,
        path: PathLike,
        root: PathLike | None = None,
        landmarks: PathLike | Mapping[str, np.ndarray] | None = None,
        allow_absolute: bool = False,
        on_missing: str = "fail",
    ):
        super().__init__(path, root, allow_absolute, on_missing)
        listed = self.take(list(self._parse()))
        values, labels = np.unique([one.identity for one in listed], return_inverse=True)
        self.labels = labels.astype(np.int32)
        self.identities = identity_names(self.path.with_name(IDENTITIES_FILE), values.tolist())
        if len(listed[0].values):
            self.extra_labels = np.array([one.values for one in listed], np.float32)
            self.extra_names = [f"label{number}" for number in range(1, self.extra_labels.shape[1] + 1)]
        if landmarks is not None:
            self.landmarks = match_landmarks(landmarks, self._names, self.root)

    def _parse(self) -> Iterator[Listed]:
        count = None
        for number, line in enumerate(self.lines(), 1):
            if not line.strip():
                continue
            _, *labels, path = ["", *line.rstrip("\r\n").split("\t")]
            values = [parse_number(label) for label in labels[1:]]
            count = len(values) if count is None else count
            if not values or None in values or len(values) != count or values[0] % 1 or not 0 <= values[0] < 2**31:
                expected = f"index, {count or 1} labels (the first a whole number) and path with tabs between"
                raise InputError(f"{self.path}, line {number}: expected {expected}, found {line.rstrip()[:80]!r}")
            yield Listed(number, path, int(values[0]), values[1:])


class CsvSource(ListSource):
    """The images of a CSV table with the columns ``path`` and ``identity``.

    With the columns ``x1, y1, ..., x5, y5`` (pixels; left eye, right eye, nose, left and right mouth corner) images are
    aligned; those whose cells are empty have no landmarks. Other columns become ``extra_labels`` if they hold numbers
    alone, empty cells being NaN, and are passed over otherwise. Identities are taken in the order of their names.

    Args:
        path: the table, UTF-8.
        root: folder of the paths; by default that of the table.
        landmarks: five points per image in a table of their own, as ``FolderSource`` takes them.
        allow_absolute: whether paths may be absolute.
        on_missing: ``"fail"`` raises if a file is missing, ``"skip"`` leaves it out with a warning.
    Raises:
        InputError: for a malformed table, a path that leaves the root, or a missing file.
    """

    def __init__(
        self,
        path: PathLike,
        root: PathLike | None = None,
        landmarks: PathLike | Mapping[str, np.ndarray] | None = None,
        allow_absolute: bool = False,
        on_missing: str = "fail",
    ):
        super().__init__(path, root, allow_absolute, on_missing)
        rows = list(self._rows())
        header = rows[0].values
        listed = self.take(rows[1:])
        self.identities = sorted({one.identity for one in listed})
        numbers = {name: number for number, name in enumerate(self.identities)}
        self.labels = np.array([numbers[one.identity] for one in listed], np.int32)
        if set(_POINTS) <= set(header):
            columns = [header.index(name) for name in _POINTS]
            self.landmarks = self._numbers(listed, columns, _POINTS).reshape(-1, 5, 2)
        if landmarks is not None:
            self.landmarks = match_landmarks(landmarks, self._names, self.root)
        others = [n for n, name in enumerate(header) if name not in ("path", "identity", *_POINTS) and name]
        numeric = [n for n in others if all(parse_number(one.values[n]) is not None for one in listed)]
        if numeric:
            self.extra_names = [header[n] for n in numeric]
            self.extra_labels = self._numbers(listed, numeric, self.extra_names)
        if len(numeric) < len(others):
            words = ", ".join(header[n] for n in others if n not in numeric)
            _log.info("%s: columns without numbers are passed over: %s", self.path, words)

    def _rows(self) -> Iterator[Listed]:
        """Yields the header, then the lines; ``values`` are all cells."""
        reader = csv.reader(self.lines())
        try:
            header = [name.strip() for name in next(reader, [])]
            if not {"path", "identity"} <= set(header) or len(set(header)) != len(header):
                seen = ",".join(header)[:80] or "nothing"
                what = f"expected a header with the columns path and identity, each once, received {seen!r}"
                raise InputError(f"{self.path}, line 1: {what}")
            path, identity = header.index("path"), header.index("identity")
            yield Listed(1, "", "", header)
            for row in filter(None, reader):
                if len(row) != len(header) or not row[identity].strip():
                    what = f"expected {len(header)} values with a path and an identity, received {','.join(row)[:80]!r}"
                    raise InputError(f"{self.path}, line {reader.line_num}: {what}")
                yield Listed(reader.line_num, row[path].strip(), row[identity].strip(), row)
        except csv.Error as error:
            raise InputError(f"{self.path}, line {reader.line_num}: expected CSV, received {error}") from error

    def _numbers(self, listed: list[Listed], columns: Sequence[int], names: Sequence[str]) -> np.ndarray:
        found = np.empty((len(listed), len(columns)), np.float32)
        for row, one in enumerate(listed):
            for place, (column, name) in enumerate(zip(columns, names)):
                value = parse_number(one.values[column])
                if value is None:
                    what = f"expected a number as {name}, received {one.values[column]!r}"
                    raise InputError(f"{self.path}, line {one.line}: {what}")
                found[row, place] = value
        return found

"""Embeddings of a data set in a folder: one mapped matrix, found by the digest of an image or by its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.data.cache_files import sampled_digest
from facetrain.data.sources import FaceSource
from facetrain.distillation.image_keys import KEY_BYTES, keys_of
from facetrain.distillation.kinds import STORE_FILE
from facetrain.errors import InputError
from facetrain.files import PathLike

FORMAT = 1
EMBEDDINGS, KEYS, ROWS = "embeddings.bin", "keys.bin", "rows.bin"
DTYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
ROW_DTYPE = np.dtype("<i8")

_MAX_JSON_BYTES = 64 << 20
_MAX_SIDE = 1 << 20
_SHOWN = 3


class EmbeddingStore:
    """A folder that ``facetrain embed`` wrote, opened read-only.

    Row i of the matrix is image i of the data set it was made of. Beside it lie the digests of the images in rising
    order and the row of each, so that the images are found in any other data set too.

    Args:
        path: the folder.
    Attributes:
        embeddings: float16 or float32 [N, D], mapped; rows of unreadable images are zero.
        teacher: kind, digest and contract of the model they come from.
        fingerprint: of the data set.
        flip: whether embeddings of the crop and its mirror image were added.
        unreadable: rows without an image, rising.
        digest: of everything in it.
    Raises:
        InputError: if it is no such folder, or files do not have the size or content that was recorded.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        header = self._read_header()
        self.count, self.size = self._whole(header, "count", 1 << 40), self._whole(header, "embedding_size", _MAX_SIDE)
        dtype = DTYPES.get(str(header.get("dtype")))
        if dtype is None:
            raise self._damaged(f"dtype must be one of {', '.join(DTYPES)}, received {header.get('dtype')!r}")
        self.teacher, self.fingerprint = self._mapping(header, "teacher"), str(header.get("data_fingerprint"))
        self.flip = header.get("flip") is True
        self.digest = str(header.get("digest"))
        self.unreadable = self._unreadable(header)
        self.embeddings = self._map(EMBEDDINGS, dtype, (self.count, self.size))
        self._keys = self._map(KEYS, np.dtype(np.uint8), (self.count - len(self.unreadable), KEY_BYTES))
        self._rows = self._map(ROWS, ROW_DTYPE, (len(self._keys),))
        if store_digest(self.path, header) != self.digest:
            raise self._damaged("its files are not those that were written")

    def rows_of_keys(self, keys: np.ndarray) -> np.ndarray:
        """Returns the row of each digest uint8 [n, 16], int64 [n]; -1 where there is none."""
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        known, wanted = as_bytes(self._keys), as_bytes(keys)
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        rows = np.where(known[places] == wanted, np.asarray(self._rows)[places], -1)
        if rows.size and not -1 <= rows.min() <= rows.max() < self.count:
            raise self._damaged(f"{ROWS} points outside of the {self.count} rows")
        return rows

    def rows_of(self, source: FaceSource, indices: Sequence[int], show_progress: bool = False) -> np.ndarray:
        """Returns the row of each of some images of a data set, int64 [n].

        If it is the data set that the embeddings were made of, the row is the place; otherwise all images are read
        for their digests.

        Args:
            source: the data set.
            indices: images of it.
            show_progress: show on stderr how far the reading is.
        Raises:
            InputError: naming images without an embedding.
        """
        indices = np.asarray(indices, np.int64)
        if source.fingerprint() == self.fingerprint and source.num_images == self.count:
            rows = np.where(np.isin(indices, self.unreadable), -1, indices)
        else:
            rows = self.rows_of_keys(keys_of(source, indices.tolist(), show_progress))
        missing = indices[rows < 0]
        if len(missing):
            shown = ", ".join(repr(source.names(int(index))) for index in missing[:_SHOWN])
            raise InputError(
                f"{self.path}: holds no embedding of {len(missing)} of {len(indices)} images, such as {shown}; store "
                "those of this data set with 'facetrain embed'"
            )
        return rows

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Returns the embeddings of some rows, float32 [n, D]."""
        return np.asarray(np.asarray(self.embeddings)[rows], np.float32)

    def principal_axes(self, size: int) -> np.ndarray:
        """Returns the axes along which the unit-length embeddings are largest, float32 [D, size], orthonormal.

        They are not centred first: of all projections to ``size`` values this one keeps cosines best in the mean of
        squares. Each axis has its largest component above 0.

        Raises:
            InputError: if there are fewer than ``size`` values to begin with.
        """
        if size > self.size:
            raise InputError(
                f"{self.path}: principal axes make embeddings shorter, but these have {self.size} values and the "
                f"student {size}: let a projection be learned (distillation.sizes: project)"
            )
        moment = np.zeros((self.size, self.size))
        for start in range(0, self.count, 65536):
            block = np.asarray(self.embeddings[start : start + 65536], np.float64)
            block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
            moment += block.T @ block
        _, vectors = np.linalg.eigh(moment)
        axes = vectors[:, ::-1][:, :size]
        signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(size)])
        return (axes * signs).astype(np.float32)

    def _map(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Maps a file whose size is exactly that of the array."""
        path = self.path / name
        expected = dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object))
        try:
            received = path.stat().st_size
            if received != expected:
                raise self._damaged(f"{name} should have {expected} bytes, it has {received}")
            return np.memmap(path, dtype, "r", shape=shape) if expected else np.zeros(shape, dtype)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); copy all files of the store") from error

    def _read_header(self) -> dict[str, Any]:
        path = self.path / STORE_FILE
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise self._damaged(f"larger than {_MAX_JSON_BYTES} bytes")
            header = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{self.path}: expected a folder of embeddings with {STORE_FILE}, found none; make it with "
                "'facetrain embed'"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise self._damaged(f"it cannot be read: {error}") from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise self._damaged(f"expected format {FORMAT}")
        return header

    def _unreadable(self, header: Mapping[str, Any]) -> np.ndarray:
        rows = header.get("unreadable")
        whole = isinstance(rows, list) and all(isinstance(row, int) and not isinstance(row, bool) for row in rows)
        if not whole or rows != sorted(set(rows)) or (rows and not 0 <= rows[0] <= rows[-1] < self.count):
            raise self._damaged(f"'unreadable' must be rising rows below {self.count}")
        return np.array(rows, np.int64)

    def _mapping(self, header: Mapping[str, Any], key: str) -> dict[str, Any]:
        if not isinstance(header.get(key), dict):
            raise self._damaged(f"{key!r} must be a mapping")
        return dict(header[key])

    def _whole(self, header: Mapping[str, Any], key: str, most: int) -> int:
        value = header.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self._damaged(f"{key!r} must be a whole number from 1 to {most}, received {value!r}")
        return value

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self.path / STORE_FILE}: expected stored embeddings ({reason}); make them anew")


def as_bytes(keys: np.ndarray) -> np.ndarray:
    """Returns digests uint8 [n, 16] as n values that compare like their bytes."""
    # All have 16 bytes: that NumPy pads shorter texts with zeros changes nothing.
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)


def store_digest(folder: Path, header: Mapping[str, Any]) -> str:
    """Returns a digest of the header and of rows spread over the files of a store."""
    digest = hashlib.sha256()
    described = {key: value for key, value in header.items() if key != "digest"}
    digest.update(json.dumps(described, sort_keys=True).encode())
    row_bytes = DTYPES[header["dtype"]].itemsize * header["embedding_size"]
    digest.update(sampled_digest(folder / EMBEDDINGS, (header["count"], row_bytes)).encode())
    keys = header["count"] - len(header["unreadable"])
    if keys:
        digest.update(sampled_digest(folder / KEYS, (keys, KEY_BYTES)).encode())
        digest.update(sampled_digest(folder / ROWS, (keys, ROW_DTYPE.itemsize)).encode())
    return digest.hexdigest()

"""A head's centres in files of their own: shards of rows, however many processes wrote or will read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder, sha256_file, write_json
from facetrain.layers.sharded import shard_bounds
from facetrain.models.array_file import read_blocks, read_header, write_header
from facetrain.models.shards import array_of, assign_whole, whole_shape

HEAD_FILE = "head.json"
FORMAT = 1
_MAX_JSON_BYTES = 16 << 20


def save_head(
    head: tf.keras.layers.Layer, folder: PathLike, shards: int = 1, identities: Sequence[str] | None = None
) -> None:
    """Writes the centres of a head into ``folder``, which appears as a whole or not at all.

    Rows are read and written in blocks: centres of any size need a few times 16 MB more. Where processes share the
    classes, one calls this and the others ``take_part([head.centres])``.

    Args:
        head: a built head with ``centres`` [C, D] or [C, k, D].
        folder: where to; an earlier one is replaced.
        shards: number of files; each holds C / shards rows, the first C mod shards files one more.
        identities: names of the classes in the order of their labels; their digest is kept, so that the head is not
            taken for that of another set of people.
    Raises:
        InputError: if the number of shards is not in 1..C, identities are not C, or centres are not float32.
    """
    centres = array_of(head.centres)
    num_classes = centres.shape[0]
    if isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= num_classes:
        raise InputError(f"shards must be in 1..{num_classes}, the number of classes, received {shards!r}")
    if centres.dtype != HeadFile.dtype:
        raise InputError(f"a head is saved in float32, received centres of {centres.dtype}; build it with that dtype")
    with atomic_folder(folder) as temporary:
        entries = []
        for number, (first, stop) in enumerate(shard_ranges(num_classes, shards)):
            path = temporary / _shard_name(number, shards)
            with open(path, "wb") as handle:
                write_header(handle, (stop - first, *centres.shape[1:]), centres.dtype)
                for _, block in centres.blocks(first, stop):
                    handle.write(np.ascontiguousarray(block).data)
            entries.append({"count": stop - first, "sha256": sha256_file(path)})
        description = {
            "format": FORMAT,
            "num_classes": num_classes,
            "embedding_size": centres.shape[-1],
            "k": centres.shape[1] if len(centres.shape) == 3 else 1,
            "identities": None if identities is None else _identities_digest(identities, num_classes),
            "shards": entries,
        }
        write_json(temporary / HEAD_FILE, description)


def load_head(head: tf.keras.layers.Layer, folder: PathLike, identities: Sequence[str] | None = None) -> None:
    """Fills the centres of a built head from a folder that ``save_head`` wrote, with any number of shards.

    A partial head is filled in blocks of rows; the centres of others are put together in memory once. A sharded head
    takes its own rows.

    Args:
        head: a built head of the same sizes.
        folder: where from.
        identities: names of the classes in the order of their labels, compared with those of the file if it has any.
    Raises:
        InputError: if it is damaged, or the head of other sizes or other people; centres of a whole head are then as
            before.
    """
    stored = HeadFile(folder)
    wanted, found = whole_shape(head.centres), stored.shape
    if wanted != found:
        raise InputError(
            f"{folder}: holds centres {list(found)}, but this head has {list(wanted)}; give the head of it"
        )
    if identities is not None:
        stored.check_identities(identities)
    stored.check_digests()
    assign_whole(head.centres, stored)


class HeadFile:
    """A folder that ``save_head`` wrote.

    Args:
        folder: the folder.
    Attributes:
        num_classes, embedding_size, k: C, D and the number of centres of a class.
        shape: of the centres: [C, D], or [C, k, D].
    Raises:
        InputError: if it is no such folder.
    """

    dtype = np.dtype("<f4")

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        description = self._read_description()
        self.num_classes, self.embedding_size, self.k = (
            self._whole(description, key) for key in ("num_classes", "embedding_size", "k")
        )
        self._identities = description.get("identities")
        self._shards = description.get("shards")
        if not isinstance(self._shards, list) or not all(isinstance(entry, dict) for entry in self._shards):
            raise self._damaged("'shards' is not a list of files")
        if sum(self._whole(entry, "count") for entry in self._shards) != self.num_classes:
            raise self._damaged(f"its shards do not add up to {self.num_classes} classes")
        middle = (self.k,) if self.k > 1 else ()
        self.shape = (self.num_classes, *middle, self.embedding_size)

    def check_identities(self, identities: Sequence[str]) -> None:
        """Refuses other people than those the head was trained with, if the file knows them.

        Raises:
            InputError: if names, their order or their number differ.
        """
        if self._identities is not None and self._identities != _identities_digest(identities, self.num_classes):
            raise InputError(
                f"{self.folder}: its classes are other people, or the same in another order; "
                "give the identities that the head was trained with"
            )

    def check_digests(self) -> None:
        """Refuses shards whose content is not what was written.

        Raises:
            InputError: naming the file.
        """
        for number, entry in enumerate(self._shards):
            path = self._shard(number)
            try:
                digest = sha256_file(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error}); copy all files of the head") from error
            if digest != entry.get("sha256"):
                raise InputError(f"{path}: its content does not have the digest that was recorded for it")

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first class, centres of some classes) from class ``first`` up to ``stop``, whatever the shards."""
        stop = self.num_classes if stop is None else stop
        begin = 0
        for number, entry in enumerate(self._shards):
            low, high = max(first - begin, 0), min(stop - begin, entry["count"])
            if low < high:
                for start, block in self._blocks_of(number, low, high):
                    yield begin + start, block
            begin += entry["count"]

    def rows(self, first: int, count: int) -> np.ndarray:
        """Returns the centres of ``count`` classes from ``first`` on; reads nothing else.

        Raises:
            InputError: if there are not so many.
        """
        if first < 0 or count < 0 or first + count > self.num_classes:
            raise InputError(f"{self.folder}: has {self.num_classes} classes, asked for {first} to {first + count}")
        found = np.empty((count, *self.shape[1:]), self.dtype)
        for start, block in self.blocks(first, first + count):
            found[start - first : start - first + len(block)] = block
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.rows(0, self.num_classes)

    def _blocks_of(self, number: int, first: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        path, expected = self._shard(number), (self._shards[number]["count"], *self.shape[1:])
        try:
            with open(path, "rb") as handle:
                shape, dtype = read_header(handle, path.stat().st_size)
                if shape != expected or dtype != self.dtype:
                    raise ValueError(f"expected {expected} of {self.dtype}, received {shape} of {dtype}")
                yield from read_blocks(handle, shape, dtype, first, stop)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected a part of a head's centres ({error}); copy all its files") from error

    def _shard(self, number: int) -> Path:
        # Names are made here, not read: a description cannot point anywhere else.
        return self.folder / _shard_name(number, len(self._shards))

    def _read_description(self) -> dict[str, Any]:
        path = self.folder / HEAD_FILE
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise self._damaged(f"larger than {_MAX_JSON_BYTES} bytes")
            description = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.folder}: expected the folder of a head with {HEAD_FILE}, found none") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise self._damaged(f"it cannot be read: {error}") from error
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise self._damaged(f"expected format {FORMAT}")
        return description

    def _whole(self, description: dict[str, Any], key: str) -> int:
        value = description.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._damaged(f"{key!r} must be a whole number of at least 1, received {value!r}")
        return value

    def _damaged(self, reason: str) -> InputError:
        return InputError(f"{self.folder / HEAD_FILE}: expected the description of a head ({reason}); save it anew")


def shard_ranges(num_classes: int, shards: int) -> list[tuple[int, int]]:
    """Returns (first, end) of the classes of each shard, as even as can be, the larger ones first."""
    return [shard_bounds(num_classes, number, shards) for number in range(shards)]


def _shard_name(number: int, shards: int) -> str:
    return f"centres-{number:05d}-of-{shards:05d}.npy"


def _identities_digest(identities: Sequence[str], num_classes: int) -> str:
    if len(identities) != num_classes:
        raise InputError(f"expected the names of {num_classes} classes, received {len(identities)}")
    digest = hashlib.sha256()
    for name in identities:
        encoded = str(name).encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()

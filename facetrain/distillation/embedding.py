"""Embedding a data set into a store: block by block, so that many processes share the work and a killed one goes on."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.data.locks import locked
from facetrain.data.sources import FaceSource
from facetrain.distillation.image_keys import KEY_BYTES, KeyedCrop, keyed_crops
from facetrain.distillation.kinds import STORE_FILE
from facetrain.distillation.pixel_teacher import PixelTeacher
from facetrain.distillation.store import (
    DTYPES,
    EMBEDDINGS,
    FORMAT,
    KEYS,
    ROW_DTYPE,
    ROWS,
    EmbeddingStore,
    as_bytes,
    store_digest,
)
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder, atomic_path, write_json
from facetrain.models.array_file import ArrayFile, write_arrays
from facetrain.progress import track

BLOCK_IMAGES = 2048
_PLAN = "plan.json"


@dataclass(frozen=True)
class EmbedOptions:
    """How a data set is embedded.

    Attributes:
        dtype: ``"float32"`` or ``"float16"``, of the stored values.
        flip: add the embedding of the mirror image, as evaluation does.
        batch: images in one call of the teacher.
        shard, shards: this process takes every ``shards``-th block, from number ``shard`` on.
        block: images in a block: at most so many are embedded again after a crash.
        show_progress: show on stderr how far the work is.
    """

    dtype: str = "float32"
    flip: bool = False
    batch: int = 64
    shard: int = 0
    shards: int = 1
    block: int = BLOCK_IMAGES
    show_progress: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"embeddings are stored as {' or '.join(DTYPES)}, received {self.dtype!r}")
        if self.batch < 1 or self.block < 1 or not 0 <= self.shard < self.shards:
            raise InputError(
                f"embedding needs a batch and blocks of at least 1 image and a shard below the number of shards, "
                f"received {self.batch}, {self.block}, and shard {self.shard} of {self.shards}"
            )


def embed_source(
    teacher: PixelTeacher, source: FaceSource, out: PathLike, options: EmbedOptions | None = None
) -> dict[str, Any]:
    """Stores the embeddings of all images of a data set.

    Finished blocks lie in ``.<name>.parts`` beside ``out`` until all are there; whichever process finds them complete
    puts them together under a temporary name, renames that, and removes the blocks. Called again after a crash it
    goes on with the blocks that are missing.

    Args:
        teacher: the model.
        source: the data set.
        out: folder to write; if it holds these very embeddings already, nothing is done.
        options: see there.
    Returns:
        ``path``, ``images``, ``unreadable``, ``embedding_size``, ``bytes``, ``embedded`` (images that this call
        embedded) and ``missing`` (blocks that other shards have still to make; while there are any, nothing is put
        together).
    Raises:
        InputError: if something else stands at ``out``, blocks of another job lie there, an embedding is not finite,
            or no image is readable.
    """
    options = options or EmbedOptions()
    job = _Job(teacher, source, Path(out), options)
    embedded, missing = 0, []
    if not job.is_done():
        job.begin()
        embedded = job.make_blocks()
        missing = [] if job.is_done() else job.missing()  # others may have ended meanwhile
    summary = {"path": str(job.out), "images": source.num_images, "embedding_size": teacher.embedding_size}
    if not missing:
        job.put_together()
        header = json.loads((job.out / STORE_FILE).read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in job.out.iterdir())
        summary.update(unreadable=len(header["unreadable"]), bytes=size)
    return {**summary, "embedded": embedded, "missing": len(missing)}


class _Job:
    """The embedding of one data set by one teacher."""

    def __init__(self, teacher: PixelTeacher, source: FaceSource, out: Path, options: EmbedOptions):
        self.teacher, self.source, self.out, self.options = teacher, source, out, options
        self.parts = out.parent / f".{out.name}.parts"
        self.blocks = range(-(-source.num_images // options.block))
        self._plan = {
            "format": FORMAT,
            "teacher": teacher.describe(),
            "data_fingerprint": source.fingerprint(),
            "count": source.num_images,
            "embedding_size": teacher.embedding_size,
            "dtype": options.dtype,
            "flip": options.flip,
            "block": options.block,
        }

    def is_done(self) -> bool:
        """Whether the store is there already, made by another process or an earlier call.

        Raises:
            InputError: if something else stands there.
        """
        if not self.out.exists():
            return False
        path = self.out / STORE_FILE
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            header = {}
        header = header if isinstance(header, dict) else {}
        if any(header.get(key) != _as_json(value) for key, value in self._plan.items() if key != "block"):
            raise InputError(f"{self.out}: exists already; remove it, or store the embeddings under another name")
        EmbeddingStore(self.out)
        return True

    def begin(self) -> None:
        """Makes the folder of blocks, or goes on with it if it belongs to this very job."""
        self.parts.mkdir(parents=True, exist_ok=True)
        path = self.parts / _PLAN
        with locked(self.parts):
            if not path.exists():
                write_json(path, self._plan)
            try:
                plan = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, UnicodeDecodeError):
                plan = {}
        plan = plan if isinstance(plan, dict) else {}
        differ = sorted(key for key in self._plan if plan.get(key) != _as_json(self._plan[key]))
        if differ:
            raise InputError(
                f"{self.parts}: holds blocks of another job (other {', '.join(differ)}); finish that one, remove the "
                "folder, or store the embeddings under another name"
            )

    def make_blocks(self) -> int:
        """Makes the blocks of this shard that are missing; returns how many images those have."""
        todo = [number for number in self.missing() if number % self.options.shards == self.options.shard]
        ranges = {number: self._range(number) for number in todo}
        total, embedded = sum(len(images) for images in ranges.values()), 0
        shown = track(self._embedded(ranges), "embedding", total, self.options.show_progress)
        for _ in shown:
            embedded += 1
        return embedded

    def missing(self) -> list[int]:
        """Returns the numbers of blocks that are not finished."""
        return [number for number in self.blocks if not self._block(number).is_file()]

    def put_together(self) -> None:
        """Writes the store from all blocks; one process does, others find it done."""
        with locked(self.out):
            if not self.out.exists():
                with atomic_folder(self.out) as temporary:
                    self._write(temporary)
            shutil.rmtree(self.parts, ignore_errors=True)

    def _embedded(self, ranges: Mapping[int, range]) -> Iterator[int]:
        """Yields the number of each image once its block is written."""
        for number, images in ranges.items():
            keys, embeddings, readable = self._embed(images)
            with atomic_path(self._block(number)) as temporary:
                write_arrays(temporary, {"keys": keys, "embeddings": embeddings, "readable": readable})
            yield from images

    def _embed(self, images: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns digests uint8 [n, 16], embeddings [n, D] and which images are readable, bool [n]."""
        keys = np.zeros((len(images), KEY_BYTES), np.uint8)
        readable = np.zeros(len(images), bool)
        embeddings = np.zeros((len(images), self.teacher.embedding_size), DTYPES[self.options.dtype])
        waiting: list[tuple[int, np.ndarray]] = []
        for place, found in enumerate(keyed_crops(self.source, images, self.teacher.input_size)):
            if isinstance(found, KeyedCrop):
                keys[place], readable[place] = np.frombuffer(found.key, np.uint8), True
                waiting.append((place, found.crop))
            if len(waiting) == self.options.batch:
                self._fill(embeddings, waiting, images)
        if waiting:
            self._fill(embeddings, waiting, images)
        return keys, embeddings, readable

    def _fill(self, embeddings: np.ndarray, waiting: list[tuple[int, np.ndarray]], images: range) -> None:
        places, crops = [place for place, _ in waiting], np.stack([crop for _, crop in waiting])
        fill = self.options.batch - len(crops)  # all calls of one shape, so that nothing is traced again
        crops = np.concatenate([crops, np.repeat(crops[-1:], fill, axis=0)]) if fill else crops
        found = self.teacher.embed(crops)
        if self.options.flip:
            found = found + self.teacher.embed(np.ascontiguousarray(crops[:, :, ::-1]))
        found = found[: len(places)]
        with np.errstate(over="ignore"):  # told below
            stored = found.astype(embeddings.dtype)
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if len(bad):
            name = self.source.names(images[places[bad[0]]])
            if not np.isfinite(found[bad[0]]).all():
                raise InputError(f"image {name!r}: its embedding is not finite; the teacher has probably diverged")
            raise InputError(f"image {name!r}: its embedding is too large for {embeddings.dtype}; store float32")
        embeddings[places] = stored
        waiting.clear()

    def _write(self, folder: Path) -> None:
        keys, rows, unreadable = [], [], []
        with open(folder / EMBEDDINGS, "wb") as file:
            for number in self.blocks:
                images = self._range(number)
                block = self._read_block(number, len(images))
                file.write(np.ascontiguousarray(block["embeddings"]).data)
                keys.append(block["keys"][block["readable"]])
                rows.append(np.asarray(images, ROW_DTYPE)[block["readable"]])
                unreadable += np.asarray(images)[~block["readable"]].tolist()
        if len(unreadable) == self.source.num_images:
            raise InputError(f"none of the {len(unreadable)} images is readable; nothing is stored")
        all_keys, all_rows = np.concatenate(keys), np.concatenate(rows)
        order = np.argsort(as_bytes(all_keys), kind="stable")
        all_keys[order].tofile(folder / KEYS)
        all_rows[order].tofile(folder / ROWS)
        header = {**self._plan, "unreadable": unreadable, "view": "centre", "library": "facetrain"}
        header = {key: _as_json(value) for key, value in header.items() if key != "block"}
        write_json(folder / STORE_FILE, {**header, "digest": store_digest(folder, header)})

    def _read_block(self, number: int, count: int) -> dict[str, np.ndarray]:
        path = self._block(number)
        expected = {
            "keys": ((count, KEY_BYTES), np.dtype(np.uint8)),
            "embeddings": ((count, self.teacher.embedding_size), DTYPES[self.options.dtype]),
            "readable": ((count,), np.dtype(bool)),
        }
        try:
            arrays = ArrayFile(path)
            if {name: (array.shape, array.dtype) for name, array in arrays.items()} != expected:
                raise ValueError("arrays of other shapes")
            return {name: np.asarray(array) for name, array in arrays.items()}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: expected a block of embeddings ({error}); remove it and go on") from error

    def _range(self, number: int) -> range:
        first = number * self.options.block
        return range(first, min(first + self.options.block, self.source.num_images))

    def _block(self, number: int) -> Path:
        return self.parts / f"block-{number:08d}.npz"


def _as_json(value: Any) -> Any:
    """Returns a value as it comes back from JSON."""
    return json.loads(json.dumps(value))

"""The decoded cache: one memory-mapped array of network-sized images, built once, shared by processes."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.align import arcface_template
from facetrain.data.decoding import Unreadable, check_on_unreadable, read_crops, refusal
from facetrain.data.locks import locked
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder, is_full_disk, write_json
from facetrain.progress import track

_log = logging.getLogger(__name__)

_FORMAT_VERSION = 1
"""Raise it when the files of a cache, or the way in which an encoded image becomes pixels, change."""

_PIXELS = "images.u8"
_META = "meta.json"
_SAMPLED_ROWS = 64


class DecodedCache:
    """All readable images of a source, decoded, aligned or resized, as one memory-mapped array.

    Attributes:
        images: uint8 [M, S, S, 3], RGB, read-only.
        kept: int64 [M], index of each image in the source.
        labels: int32 [M], identity of each image, numbered as in the source.
        identities: names of all identities of the source, also of those without a readable image.
        lost_identities: names of the identities none of whose images is readable; their numbers stay unused.
        unreadable: what was left out, and why.
        folder: where the cache lies.
    """

    def __init__(self, folder: Path, source: FaceSource, meta: dict[str, Any]):
        self.folder = folder
        self.images = np.memmap(folder / _PIXELS, np.uint8, "r", shape=tuple(meta["shape"]))
        self.unreadable = [Unreadable(name, reason) for _, name, reason in meta["left_out"]]
        left_out = np.array([index for index, _, _ in meta["left_out"]], np.int64)
        labels = np.asarray(source.labels, np.int32)
        self.kept = np.delete(np.arange(source.num_images, dtype=np.int64), left_out)
        self.labels = labels[self.kept]
        self.identities = source.identities
        self.lost_identities = [source.identities[i] for i in np.setdiff1d(labels[left_out], self.labels)]

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def open_or_build(
        cls,
        source: FaceSource,
        size: int,
        cache_dir: PathLike,
        on_unreadable: str = "skip",
        show_progress: bool = False,
        workers: int | None = None,
    ) -> DecodedCache:
        """Opens the cache of ``source`` at ``size``, or builds it.

        It lies in a subfolder of ``cache_dir`` named after a digest of the source's fingerprint, the size and the
        alignment, so that a changed source gets a new cache. Of processes on one host, one builds, the others wait.

        Args:
            source: the images.
            size: side of the cached images in pixels.
            cache_dir: folder of caches; made if needed.
            on_unreadable: ``"skip"`` leaves out images that cannot be read, with a warning; ``"fail"`` raises.
            show_progress: whether to show on stderr how far the building is.
            workers: decoding threads; None takes one per processor.

        Raises:
            InputError: if an image is unreadable and must not be, if none is readable, or if the disk is too full.
        """
        check_on_unreadable(on_unreadable)
        key = cache_key(source, size)
        folder = Path(cache_dir) / key
        with _explaining_disk_errors(folder.parent, cache_bytes(source, size)):
            meta = _read_meta(folder, key)
            if meta is None:
                with locked(folder):
                    meta = _read_meta(folder, key)  # another process may have built it while this one waited
                    if meta is None:
                        meta = _build(folder, key, source, size, on_unreadable, show_progress, workers)
        cache = cls(folder, source, meta)
        cache._report(on_unreadable)
        return cache

    def _report(self, on_unreadable: str) -> None:
        if not self.unreadable:
            return
        if on_unreadable == "fail":
            raise refusal(self.unreadable)
        shown = "; ".join(f"{name}: {reason}" for name, reason in self.unreadable[:3])
        _log.warning("left out %d of %d images: %s", len(self.unreadable), len(self.unreadable) + len(self), shown)
        if self.lost_identities:
            shown = ", ".join(self.lost_identities[:5])
            _log.warning("%d identities have no readable image left: %s", len(self.lost_identities), shown)


def cache_key(source: FaceSource, size: int) -> str:
    """Returns the name of the subfolder that holds the cache of ``source`` at ``size`` pixels."""
    template = arcface_template(size).tolist()
    parts = ["facetrain decoded cache", _FORMAT_VERSION, source.fingerprint(), size, template]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def cache_bytes(source: FaceSource, size: int) -> int:
    """Returns how many bytes the cache of ``source`` at ``size`` pixels takes at most."""
    return source.num_images * size * size * 3


def _build(
    folder: Path, key: str, source: FaceSource, size: int, on_unreadable: str, show_progress: bool, workers: int | None
) -> dict[str, Any]:
    _remove_leftovers(folder)
    need, free = cache_bytes(source, size), shutil.disk_usage(folder.parent).free
    if free < need:
        raise _full_disk(folder.parent, need, f"only {_megabytes(free)} are free")
    left_out: list[tuple[int, str, str]] = []
    with atomic_folder(folder) as temporary:
        with open(temporary / _PIXELS, "wb") as file:
            crops = read_crops(source, size, workers)
            for index, crop in enumerate(track(crops, "decoding", source.num_images, show_progress)):
                # Plain writes: a full disk is an error here, but kills a process that writes to a memory map.
                if isinstance(crop, np.ndarray):
                    file.write(crop)
                elif on_unreadable == "fail":
                    raise refusal([crop])
                else:
                    left_out.append((index, *crop))
        if len(left_out) == source.num_images:
            _, name, reason = left_out[0]
            raise InputError(f"none of the {source.num_images} images is readable, the first is {name!r}: {reason}")
        shape = (source.num_images - len(left_out), size, size, 3)
        digest = _sampled_digest(temporary / _PIXELS, shape)
        meta = {"key": key, "shape": shape, "left_out": left_out, "digest": digest}
        write_json(temporary / _META, meta)
    return meta


def _read_meta(folder: Path, key: str) -> dict[str, Any] | None:
    """Returns the description of a whole and undamaged cache, or None."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        shape = meta["shape"]
        if meta["key"] == key and (folder / _PIXELS).stat().st_size == int(np.prod(shape, dtype=np.int64)):
            if _sampled_digest(folder / _PIXELS, shape) == meta["digest"]:
                return meta
    except FileNotFoundError:
        if not folder.exists():
            return None
    except (ValueError, KeyError, TypeError):
        pass  # a description that is none: as damaged as the wrong size or digest
    _log.warning("the cache %s is damaged or incomplete; it is built again", folder)
    return None


def _sampled_digest(path: Path, shape: Any) -> str:
    """Returns the digest of some rows spread over the file, first and last among them."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64))
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for row in np.unique(np.linspace(0, shape[0] - 1, _SAMPLED_ROWS).astype(np.int64)):
            file.seek(int(row) * row_bytes)
            digest.update(file.read(row_bytes))
    return digest.hexdigest()


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed builders of this cache left, and a damaged cache; the caller holds the lock."""
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in (f".{folder.name}.*.tmp", f".{folder.name}.*.old"):
        for leftover in folder.parent.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _explaining_disk_errors(cache_dir: Path, need: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise _full_disk(cache_dir, need, "the disk became full while it was built") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                f"cannot use the cache folder {str(cache_dir)!r}: {error.strerror}; choose another"
            ) from error
        raise


def _full_disk(cache_dir: Path, need: int, why: str) -> InputError:
    return InputError(
        f"the decoded cache in {str(cache_dir)!r} needs {_megabytes(need)}, but {why}; "
        "free some space, choose another cache folder, or train without a cache"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.3f} MB" if count < 1e6 else f"{count / 1e6:,.0f} MB"

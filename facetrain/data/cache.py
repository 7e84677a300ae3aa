"""The decoded cache: one memory-mapped array of network-sized images, built once, shared by processes."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.data import cache_memory
from facetrain.data.cache_files import PIXELS, Recipe, build_files, megabytes, read_meta
from facetrain.data.decoding import Unreadable, check_on_unreadable, refusal
from facetrain.data.locks import locked
from facetrain.data.sources import FaceSource
from facetrain.data.variants import VariantImages, Variants
from facetrain.errors import InputError
from facetrain.files import PathLike, is_full_disk

_log = logging.getLogger(__name__)


class DecodedCache:
    """All readable images of a source, decoded, aligned or resized, as one memory-mapped array.

    Attributes:
        images: uint8 [M, S, S, 3], RGB, read-only; with variants ``VariantImages`` of that shape.
        kept: int64 [M], index of each image in the source.
        labels: int32 [M], identity of each image, numbered as in the source.
        identities: names of all identities of the source, also of those without a readable image.
        lost_identities: names of the identities none of whose images is readable; their numbers stay unused.
        unreadable: what was left out, and why.
        folder: where the cache lies.
    """

    def __init__(self, folder: Path, source: FaceSource, meta: dict[str, Any], variants: Variants | None = None):
        self.folder = folder
        self._rows = np.memmap(folder / PIXELS, np.uint8, "r", shape=tuple(meta["shape"]))
        self.images: Any = VariantImages(self._rows, variants) if variants else self._rows
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
        variants: Variants | None = None,
    ) -> DecodedCache:
        """Opens the cache of ``source`` at ``size``, or builds it.

        It lies in a subfolder of ``cache_dir`` named after a digest of the source's fingerprint, the size, the
        alignment and the variants, so that a changed source gets a new cache. Of processes on one host, one builds,
        the others wait.

        Args:
            source: the images.
            size: side of the cached images in pixels.
            cache_dir: folder of caches; made if needed.
            on_unreadable: ``"skip"`` leaves out images that cannot be read, with a warning; ``"fail"`` raises.
            show_progress: whether to show on stderr how far the building is.
            workers: decoding threads; None takes one per processor.
            variants: augmented versions to keep in place of each image.

        Raises:
            InputError: if an image is unreadable and must not be, if none is readable, or if the disk is too full.
        """
        recipe = Recipe(source, size, variants, check_on_unreadable(on_unreadable), show_progress, workers)
        folder = Path(cache_dir) / recipe.key
        with _explaining_disk_errors(folder.parent, recipe.num_bytes):
            meta = read_meta(folder)
            if meta is None:
                with locked(folder):
                    meta = read_meta(folder)  # another process may have built it while this one waited
                    if meta is None:
                        _refuse_too_large(folder.parent, recipe.num_bytes)
                        meta = build_files(folder, recipe)
        return cls(folder, source, meta, variants)._checked(on_unreadable)

    @classmethod
    def open_in_memory(
        cls,
        source: FaceSource,
        size: int,
        on_unreadable: str = "skip",
        show_progress: bool = False,
        workers: int | None = None,
        variants: Variants | None = None,
    ) -> DecodedCache:
        """As ``open_or_build``, in memory that the processes of this host share, for as long as one of them lives.

        A file of this user in ``/dev/shm``, or in ``$FACETRAIN_SHM``. It goes when the last process that uses it
        drops its ``images`` or ends; what killed processes left goes when the next one opens a cache.

        Args:
            source: the images.
            size: side of the cached images in pixels.
            on_unreadable: ``"skip"`` or ``"fail"``.
            show_progress: whether to show on stderr how far the building is.
            workers: decoding threads; None takes one per processor.
            variants: augmented versions to keep in place of each image.

        Raises:
            InputError: as ``open_or_build``; also if memory is too small, or if something that is not this user's
                stands where the cache should be.
        """
        recipe = Recipe(source, size, variants, check_on_unreadable(on_unreadable), show_progress, workers)
        folder = cache_memory.private_folder() / recipe.key
        cache_memory.remove_unused(folder.parent, keep=folder.name)
        with _explaining_disk_errors(folder.parent, recipe.num_bytes), locked(folder), ExitStack() as undo:
            users = cache_memory.Users(folder)
            undo.callback(users.leave_locked)
            meta = read_meta(folder) if cache_memory.is_own(folder) else None
            if meta is None:
                meta = _build_in_memory(folder, recipe)
            cache = cls(folder, source, meta, variants)._checked(on_unreadable)
            weakref.finalize(cache._rows, users.leave)
            undo.pop_all()
        return cache

    def _checked(self, on_unreadable: str) -> DecodedCache:
        if not self.unreadable:
            return self
        if on_unreadable == "fail":
            raise refusal(self.unreadable)
        shown = "; ".join(f"{name}: {reason}" for name, reason in self.unreadable[:3])
        _log.warning("left out %d of %d images: %s", len(self.unreadable), len(self.unreadable) + len(self), shown)
        if self.lost_identities:
            shown = ", ".join(self.lost_identities[:5])
            _log.warning("%d identities have no readable image left: %s", len(self.lost_identities), shown)
        return self


def cache_key(source: FaceSource, size: int, variants: Variants | None = None) -> str:
    """Returns the name of the subfolder that holds the cache of ``source`` at ``size`` pixels."""
    return Recipe(source, size, variants).key


def cache_bytes(source: FaceSource, size: int, variants: Variants | None = None) -> int:
    """Returns how many bytes the cache of ``source`` at ``size`` pixels takes at most."""
    return Recipe(source, size, variants).num_bytes


def _build_in_memory(folder: Path, recipe: Recipe) -> dict[str, Any]:
    if os.path.lexists(folder):
        cache_memory.remove_files(folder)
        if os.path.lexists(folder):
            raise InputError(
                f"'{folder}' stands where the cache should be, is not this user's and cannot be removed; remove it, or "
                f"name another place in {cache_memory.PLACE_VARIABLE}"
            )
    cache_memory.refuse_too_large(folder.parent, recipe.num_bytes)
    return build_files(folder, recipe)


def _refuse_too_large(cache_dir: Path, need: int) -> None:
    free = shutil.disk_usage(cache_dir).free
    if free < need:
        raise _full_disk(cache_dir, need, f"only {megabytes(free)} are free")


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
        f"the decoded cache in {str(cache_dir)!r} needs {megabytes(need)}, but {why}; "
        "free some space, choose another cache folder, or train without a cache"
    )

"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Union

PathLike = Union[str, "os.PathLike[str]"]
# What stands between a target's name and the suffix is chosen by ``tempfile``.
_LEFTOVER = re.compile(r"\.(?P<target>.+)\.[a-z0-9_]{8}\.(?P<kind>tmp|old)(\.\w+)?")


def fsync_folder(folder: PathLike) -> None:
    """Makes a rename inside ``folder`` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_path(target: PathLike) -> Iterator[Path]:
    """Yields a temporary path beside ``target``; renames it over ``target`` when the block ends without an error.

    Any exception leaves ``target`` as it was and removes the temporary file.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=f".tmp{target.suffix}", dir=target.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        # mkstemp creates files readable by the owner alone; give them the permissions any other new file gets.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
        fsync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: PathLike) -> Iterator[Path]:
    """As ``atomic_path``, for a whole folder; an existing ``target`` is replaced."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for path in temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
        if target.exists():
            # A folder cannot be renamed over a non-empty one: step the old one aside first.
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
            os.replace(target, old / target.name)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: PathLike, *names: str) -> None:
    """Removes what writers that were killed left in a folder under temporary names.

    Where one had stepped the old folder aside, and the new one is not in its place, the old one comes back.

    Args:
        folder: where nobody writes these now; it need not exist.
        *names: of the files and folders that are written there; ``*`` stands for any text.
    """
    folder = Path(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        found = _LEFTOVER.fullmatch(path.name)
        if found is None or not any(fnmatchcase(found["target"], name) for name in names):
            continue
        target = folder / found["target"]
        if found["kind"] == "old" and (path / target.name).is_dir() and not os.path.lexists(target):
            os.replace(path / target.name, target)
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def write_json(target: PathLike, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def sha256_file(path: PathLike, chunk: int = 1 << 20) -> str:
    """Returns the SHA-256 digest of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(chunk):
            digest.update(block)
    return digest.hexdigest()


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk or quota is full; HDF5 and TensorFlow say so in their text alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

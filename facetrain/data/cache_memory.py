"""Caches in memory: files that the processes of a host share, and that go when the last of them ends."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from facetrain.data.cache_files import META, PIXELS, megabytes, remove_files
from facetrain.data.locks import locked
from facetrain.errors import InputError

PLACE_VARIABLE = "FACETRAIN_SHM"

_SHARED_MEMORY = Path("/dev/shm")
_MEMORY_INFO = Path("/proc/meminfo")
_NAME = re.compile(r"\.?([0-9a-f]{24})(?:\.|$)")


def private_folder() -> Path:
    """Returns this user's folder of caches in memory, which nobody else can enter.

    It lies in ``$FACETRAIN_SHM``; by default in ``/dev/shm``, or among the temporary files where that is missing.

    Raises:
        InputError: if it cannot be made, or something stands there that is not this user's.
    """
    folder = _place() / f"facetrain-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise InputError(
            f"cannot keep a cache in memory at '{folder}': {error.strerror}; name a folder in memory in "
            f"{PLACE_VARIABLE}, or set data.cache to disk"
        ) from error
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise InputError(
            f"'{folder}' should be a folder that only this user can enter, received "
            f"{stat.filemode(status.st_mode)} of user {status.st_uid}; remove it, or name another place in "
            f"{PLACE_VARIABLE}"
        )
    return folder


def _place() -> Path:
    named = os.environ.get(PLACE_VARIABLE)
    if named:
        return Path(named)
    usable = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    return _SHARED_MEMORY if usable else Path(tempfile.gettempdir())


def refuse_too_large(folder: Path, need: int) -> None:
    """Raises InputError if a cache of ``need`` bytes has no room in memory, or in the file system of ``folder``."""
    free, available = shutil.disk_usage(folder).free, available_memory()
    if need > min(free, free if available is None else available):
        memory = "" if available is None else f"{megabytes(available)} of memory are available and "
        raise InputError(
            f"the decoded cache in memory needs {megabytes(need)}, but {memory}{megabytes(free)} are free in "
            f"'{folder.parent}'; lower data.variants, set data.cache to disk, or train without a cache"
        )


def available_memory() -> int | None:
    """Returns how many bytes of memory can be taken without swapping, or None where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMORY_INFO.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def is_own(folder: Path) -> bool:
    """Whether a cache and its files are this user's and no links."""
    try:
        statuses = [os.lstat(path) for path in (folder, folder / PIXELS, folder / META)]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return all(s.st_uid == os.geteuid() for s in statuses) and [stat.S_IFMT(s.st_mode) for s in statuses] == [
        stat.S_IFDIR,
        stat.S_IFREG,
        stat.S_IFREG,
    ]


class Users:
    """This process as one of those that use a cache; the caller holds the lock of the cache while it joins.

    Each user holds a shared lock on a file beside the cache. The system frees it when the process ends, however it
    ends, so that a cache without users can be told from one that is in use.

    Args:
        folder: the cache.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._process = os.getpid()
        self._handle = open(_users_file(folder), "ab")
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def leave(self) -> None:
        """Ends the use; the last user removes the cache."""
        if os.getpid() != self._process:
            return  # a fork: the lock is its parent's
        with locked(self._folder):
            self.leave_locked()

    def leave_locked(self) -> None:
        """As ``leave``, for a caller that holds the lock of the cache."""
        self._handle.close()
        if not _is_used(self._folder):
            _remove(self._folder)


def remove_unused(private: Path, keep: str) -> None:
    """Removes what users that were killed left.

    Args:
        private: this user's folder of caches.
        keep: name of a cache that is about to be opened and may stay.
    """
    names = {found.group(1) for found in map(_NAME.match, os.listdir(private)) if found} - {keep}
    for folder in sorted(private / name for name in names):
        with locked(folder, wait=False) as mine:
            if mine and not _is_used(folder):
                _remove(folder)


def _is_used(folder: Path) -> bool:
    try:
        with open(_users_file(folder), "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _remove(folder: Path) -> None:
    remove_files(folder)
    _users_file(folder).unlink(missing_ok=True)


def _users_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.users"

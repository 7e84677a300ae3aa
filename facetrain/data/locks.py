"""One builder at a time among the processes of a host."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

_WAIT_S = 0.2


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Lets one process of this host at a time into the block; the lock of a process that dies is free again.

    Args:
        folder: what the block makes; the lock lies beside it.
        wait: False enters the block without the lock where another process has it.

    Yields:
        whether this process has the lock, always so after waiting.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    handle = _acquire(path, wait)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # while still locked: who opened it before notices that it is another file by then
        handle.close()


def _acquire(path: Path, wait: bool) -> Any:
    told = False
    while True:
        handle = open(path, "wb")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                return handle
        except BlockingIOError:
            if not wait:
                handle.close()
                return None
            if not told:
                _log.info("waiting for another process that builds %s", path)
                told = True
            time.sleep(_WAIT_S)
        except FileNotFoundError:
            pass  # removed between the two looks: try again
        handle.close()

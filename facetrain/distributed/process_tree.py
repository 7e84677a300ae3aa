"""Processes below a process, as Linux lists them in /proc. Imports no TensorFlow."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Returns the processes below one, parents before their children."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit():
            parent = _parent(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def _parent(entry: Path) -> int | None:
    try:
        # The name of the program, in brackets, may hold anything; what follows the last bracket is numbers.
        return int((entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None  # it has just ended


def ranks_of(pid: int) -> list[int]:
    """Returns the ranks that a horovodrun has started on this host: the topmost processes below it that have one."""
    found: list[int] = []
    below_a_rank: set[int] = set()
    for one in descendants(pid):
        parent = _parent(_PROC / str(one))
        if parent in below_a_rank:
            below_a_rank.add(one)
        elif _has_rank(one):
            below_a_rank.add(one)
            found.append(one)
    return found


def _has_rank(pid: int) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return any(part.startswith(b"HOROVOD_RANK=") for part in environment.split(b"\0"))


def kill_tree(pid: int) -> None:
    """Kills a process and all below it."""
    for one in [*reversed(descendants(pid)), pid]:
        try:
            os.kill(one, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue

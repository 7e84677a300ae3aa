"""Checkpoints: one folder each, complete or absent, verified by digest when read."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder, is_full_disk, remove_leftovers, sha256_file, write_json
from facetrain.models.array_file import AnyArray, ArrayFile, write_arrays

_ARRAYS, _STATE = "arrays.npz", "state.json"
_FOLDER = re.compile(r"^step-(\d{9})$")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds: arrays by name, read when they are used, and the JSON values needed to go on."""

    path: Path
    arrays: Mapping[str, Any]
    state: dict[str, Any]


class CheckpointStore:
    """The last few checkpoints of a run.

    A checkpoint is written under a temporary name and renamed, so a process killed at any moment leaves the earlier
    ones as they were. Arrays are stored as plain NumPy files, which carry no code.

    Args:
        folder: where checkpoints live; made when the first one is written.
        keep: how many to keep, at least 1.
    """

    def __init__(self, folder: PathLike, keep: int = 3):
        if keep < 1:
            raise InputError(f"keep_checkpoints must be at least 1, received {keep}")
        self.folder = Path(folder)
        self.keep = keep

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints present, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for m in map(_FOLDER.match, (p.name for p in self.folder.iterdir())) if m)

    def path(self, step: int) -> Path:
        """Returns the folder of the checkpoint at ``step``."""
        return self.folder / f"step-{step:09d}"

    def remove_leftovers(self) -> None:
        """Removes checkpoints in whose middle their writer was killed; no process may be writing one."""
        remove_leftovers(self.folder, "step-*")

    def save(self, step: int, arrays: Mapping[str, AnyArray], state: Mapping[str, Any]) -> Path:
        """Writes one checkpoint, then removes the oldest beyond ``keep``.

        Raises:
            InputError: if the disk is full; earlier checkpoints are untouched.
        """
        target = self.path(step)
        try:
            with atomic_folder(target) as temporary:
                write_arrays(temporary / _ARRAYS, arrays)
                write_json(temporary / _STATE, {**state, "step": step, "digest": sha256_file(temporary / _ARRAYS)})
        except OSError as error:
            if not is_full_disk(error):
                raise
            size = sum(array.nbytes for array in arrays.values()) / 1e6
            raise InputError(
                f"{self.folder}: no room on the disk for a checkpoint of {size:.0f} MB; earlier ones are intact: "
                "free some space and go on with --resume"
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))
        return target

    def load(self, step: int) -> Checkpoint:
        """Reads and verifies one checkpoint.

        Raises:
            InputError: if it is damaged.
        """
        path = self.path(step)
        try:
            state = json.loads((path / _STATE).read_text(encoding="utf-8"))
            digest = sha256_file(path / _ARRAYS)
            if digest != state["digest"]:
                raise InputError(f"{path / _ARRAYS}: its content does not have the digest that was recorded for it")
            arrays = ArrayFile(path / _ARRAYS)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: expected a checkpoint, but it cannot be read ({error})") from error
        return Checkpoint(path, arrays, state)

    def latest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole, or None if there is none at all.

        Raises:
            InputError: if there are checkpoints, and every one is damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except InputError as error:
                logger.warning("%s; trying the one before", error)
        if steps:
            raise InputError(f"{self.folder}: all {len(steps)} checkpoints are damaged; start the run anew")
        return None

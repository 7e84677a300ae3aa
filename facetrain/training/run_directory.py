"""The folder that holds everything about one training run."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_path, is_full_disk, remove_leftovers, write_json

CONFIG_FILE, MANIFEST_FILE, LABEL_MAP_FILE = "config.yaml", "manifest.json", "label_map.json"
_PACKAGES = (
    "facetrain",
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-addons",
    "horovod",
    "numpy",
    "opencv-python-headless",
)


class RunDirectory:
    """Paths of a run: ``config.yaml``, ``manifest.json``, ``label_map.json``, ``checkpoints/``, ``best/``, ``head/``.

    Metrics and report lie beside.

    Args:
        path: the folder, which may still have to be made.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.head = self.path / "head"
        self.config = self.path / CONFIG_FILE
        self.manifest = self.path / MANIFEST_FILE
        self.label_map = self.path / LABEL_MAP_FILE

    def refuse_existing(self) -> None:
        """Raises InputError if a run of this name exists already."""
        if self.path.exists():
            raise InputError(
                f"{self.path}: a run of this name exists already; go on with it by 'facetrain train --resume "
                f"{self.path}', or choose another --name"
            )

    def create(self, config_yaml: str, manifest: Mapping[str, Any]) -> None:
        """Makes the folder with its configuration and manifest.

        Raises:
            InputError: if it exists already.
        """
        self.refuse_existing()
        self.path.mkdir(parents=True)
        with atomic_path(self.config) as temporary:
            temporary.write_text(config_yaml, encoding="utf-8")
        write_json(self.manifest, dict(manifest))

    @classmethod
    def open(cls, path: PathLike) -> RunDirectory:
        """Opens an existing run.

        Raises:
            InputError: if ``path`` is no run directory.
        """
        run = cls(path)
        if not run.config.is_file():
            raise InputError(f"{path}: expected a run directory with {CONFIG_FILE}, found none")
        return run

    def remove_leftovers(self) -> None:
        """Removes half-written files and models of a process that was killed; no process may be training this run."""
        remove_leftovers(self.path, *(path.name for path in (self.config, self.manifest, self.label_map)))
        remove_leftovers(self.path, self.best.name, self.head.name)

    @contextmanager
    def explaining_full_disk(self) -> Iterator[None]:
        """Turns what a full disk raises in the block into one sentence; what is in the folder stays as it is."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: a full disk, as HDF5 tells it
            if not is_full_disk(error):
                raise
            raise InputError(
                f"{self.path}: no room left on the disk; checkpoints written before are intact: free some space and go "
                f"on with 'facetrain train --resume {self.path}'"
            ) from error

    def read_manifest(self) -> dict[str, Any]:
        """Returns the manifest."""
        try:
            return json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(
                f"{self.manifest}: expected the run's manifest, but it cannot be read ({error})"
            ) from error


def describe_environment() -> dict[str, Any]:
    """Returns versions, platform and git revision, for the manifest."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

"""Libraries of our own in C++: compiled on request, taken where they fit, never needed."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Optional

from facetrain.errors import InputError
from facetrain.files import atomic_path

_log = logging.getLogger(__name__)

PLACE_VARIABLE = "FACETRAIN_NATIVE"
HOW_TO_BUILD = "facetrain doctor --build-ops"
_OPTIONS = ("-O3", "-fPIC", "-shared")
_COMPILERS = ("g++", "clang++", "c++")


class Surroundings(NamedTuple):
    """What a library is compiled with.

    Attributes:
        flags: further arguments of the compiler, before the source.
        libraries: arguments of the linker, behind it.
        versions: whatever else decides whether a compiled library fits.
    """

    flags: list[str] = []
    libraries: list[str] = []
    versions: list[Any] = []


class Library:
    """One source file in C++, and the library that may have been compiled from it.

    Args:
        source: the file; its stem is the name of the library.
        load: opens the library at a path; raises OSError if it does not load.
        without: what goes on without it, for the warning.
        surroundings: returns what it is compiled with.
    """

    def __init__(
        self,
        source: Path,
        load: Callable[[Path], Any],
        without: str,
        surroundings: Callable[[], Surroundings] = Surroundings,
    ):
        self.source = source
        self._open, self._without, self._surroundings = load, without, surroundings
        self._opened: dict[Optional[str], Any] = {}  # by the folder that is given

    @functools.cached_property
    def stamp(self) -> str:
        """A digest of all that decides whether a compiled library fits."""
        around = self._surroundings()
        text = hashlib.sha256(self.source.read_bytes()).hexdigest()
        parts = [text, _OPTIONS, platform.machine(), around.flags, around.libraries, around.versions]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]

    @property
    def path(self) -> Path:
        """Where the library for this source and these surroundings is, or would be.

        It lies inside the Python environment, where all other code lies that this process runs, or in the folder that
        ``FACETRAIN_NATIVE`` names. Its name holds the stamp, so one that does not fit is not found.
        """
        given = os.environ.get(PLACE_VARIABLE)
        folder = Path(given) if given else Path(sys.prefix) / "share" / "facetrain" / "native"
        return folder / f"{self.source.stem}-{self.stamp}.so"

    def loaded(self) -> Any:
        """Returns what ``load`` returned, or None where no library was built that fits.

        Nothing is compiled here, and a process looks once: a library that does not load is reported, and as good as
        absent.
        """
        given = os.environ.get(PLACE_VARIABLE)
        if given not in self._opened:
            self._opened[given] = self._load() if self.path.is_file() else None
        return self._opened[given]

    def _load(self) -> Any:
        try:
            return self._open(self.path)
        except OSError as error:
            what = f"'{self.path}' does not load ({str(error).strip().splitlines()[0]})"
            _log.warning("%s: %s; '%s' mends it", what, self._without, HOW_TO_BUILD)
            return None

    def build(self) -> Path:
        """Compiles the library, which takes seconds, and returns its path; one that loads already is left alone.

        Raises:
            InputError: if there is no compiler, or it fails.
            OSError: if the folder cannot be written.
        """
        target = self.path
        if self.loaded() is not None:
            return target
        compiler = find_compiler()
        if compiler is None:
            missing = shlex.quote(os.environ["CXX"]) if os.environ.get("CXX") else ", ".join(_COMPILERS)
            raise InputError(f"no C++ compiler was found ({missing}): install g++, or let CXX name one")
        around = self._surroundings()
        with atomic_path(target) as temporary:
            output = ["-o", str(temporary), str(self.source)]
            command = [*compiler, *_OPTIONS, *around.flags, *output, *around.libraries]
            ended = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            if ended.returncode != 0:
                raise InputError(f"{compiler[0]} could not compile '{self.source}': {_first_error(ended.stdout)}")
        self._opened.clear()
        return target

    def describe(self) -> dict[str, Any]:
        """Returns where the library belongs, whether it is there and loads, and the compiler that could make it."""
        compiler = find_compiler()
        return {
            "path": str(self.path),
            "built": self.path.is_file(),
            "loads": self.loaded() is not None,
            "compiler": shutil.which(compiler[0]) if compiler else None,
        }


def find_compiler() -> Optional[list[str]]:
    """Returns the command of a C++ compiler: ``CXX`` if it is set, else the first that is there; None if none is."""
    given = shlex.split(os.environ.get("CXX", ""))
    for command in [given] if given else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    return None


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing")

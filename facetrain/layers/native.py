"""Operations of our own in C++: compiled on request, taken where they fit, never needed."""

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
from pathlib import Path
from typing import Any, Optional

from facetrain.errors import InputError
from facetrain.files import atomic_path

_log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("prelu.cc")
PLACE_VARIABLE = "FACETRAIN_NATIVE"
HOW_TO_BUILD = "facetrain doctor --build-ops"
_OPTIONS = ("-O3", "-fPIC", "-shared")
_COMPILERS = ("g++", "clang++", "c++")


def operations() -> Any:
    """Returns the module of our operations, or None where none were built for this source and this TensorFlow.

    Nothing is compiled here. A library that does not load is reported once and then as good as absent.
    """
    path = library_path()
    return _load(path) if path.is_file() else None


def library_path() -> Path:
    """Returns where the library for this source and this TensorFlow is, or would be.

    It lies inside the Python environment, where all other code lies that this process runs, or in the folder that
    ``FACETRAIN_NATIVE`` names. Its name is a digest of all that decides whether it fits, so one that was built from
    another source or for another TensorFlow is not found.
    """
    given = os.environ.get(PLACE_VARIABLE)
    folder = Path(given) if given else Path(sys.prefix) / "share" / "facetrain" / "native"
    return folder / f"prelu-{_stamp()}.so"


def find_compiler() -> Optional[list[str]]:
    """Returns the command of a C++ compiler: ``CXX`` if it is set, else the first that is there; None if none is."""
    given = shlex.split(os.environ.get("CXX", ""))
    for command in [given] if given else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    return None


def build() -> Path:
    """Compiles the library, which takes seconds, and returns its path; one that loads already is left alone.

    Raises:
        InputError: if there is no compiler, or it fails.
        OSError: if the folder cannot be written.
    """
    import tensorflow as tf

    target = library_path()
    if operations() is not None:
        return target
    compiler = find_compiler()
    if compiler is None:
        missing = shlex.quote(os.environ["CXX"]) if os.environ.get("CXX") else ", ".join(_COMPILERS)
        raise InputError(f"no C++ compiler was found ({missing}): install g++, or let CXX name one")
    flags, libraries = tf.sysconfig.get_compile_flags(), tf.sysconfig.get_link_flags()
    with atomic_path(target) as temporary:
        command = [*compiler, *_OPTIONS, *flags, "-o", str(temporary), str(SOURCE), *libraries]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if ended.returncode != 0:
            raise InputError(f"{compiler[0]} could not compile '{SOURCE}': {_first_error(ended.stdout)}")
    _load.cache_clear()
    return target


def describe() -> dict[str, Any]:
    """Returns where the library belongs, whether it is there and loads, and the compiler that could make it."""
    path, compiler = library_path(), find_compiler()
    return {
        "path": str(path),
        "built": path.is_file(),
        "loads": operations() is not None,
        "compiler": shutil.which(compiler[0]) if compiler else None,
    }


@functools.cache
def _load(path: Path) -> Any:
    import tensorflow as tf

    try:
        return tf.load_op_library(str(path))
    except tf.errors.OpError as error:
        reason = str(error.message).strip().splitlines()[0]
        _log.warning("'%s' does not load (%s): training is slower without; '%s' mends it", path, reason, HOW_TO_BUILD)
        return None


@functools.cache
def _stamp() -> str:
    import tensorflow as tf

    version = tf.version
    parts = [
        hashlib.sha256(SOURCE.read_bytes()).hexdigest(),
        _OPTIONS,
        (version.VERSION, version.GIT_VERSION, version.COMPILER_VERSION),
        (tf.sysconfig.CXX11_ABI_FLAG, tf.sysconfig.CXX_VERSION, platform.machine()),
        sorted(tf.sysconfig.get_build_info().items()),
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing")

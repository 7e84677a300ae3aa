"""Names that come with data: which may be followed, and which may become names of files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import IMAGE_SUFFIXES

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_MAX_BYTES = 120
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def below(root: Path, name: str, allow_absolute: bool = False) -> Path:
    """Returns the path of a file that data name; it cannot lead out of ``root``.

    Args:
        root: the folder of the data.
        name: path relative to it, with forward slashes.
        allow_absolute: whether an absolute path is taken as it is.
    Raises:
        InputError: if the path is empty, contains ``..``, or is absolute where that is not allowed.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not name.strip() or "\0" in name:
        raise InputError(f"expected the path of an image, received {name!r}")
    if ".." in path.parts:
        raise InputError(f"the path {name!r} leaves the folder of the data; correct it, or give another root")
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        if allow_absolute:
            return Path(name)
        raise InputError(f"the path {name!r} is absolute; make it relative to the root, or set allow_absolute")
    return root / path


def safe_name(text: str) -> str:
    """Returns a name for a file or folder on any system, as near to ``text`` as can be.

    Separators and other signs with a meaning become ``_``, and so do dots at the start or end. What is longer than 120
    bytes in UTF-8 is cut, with a digest behind it.
    """
    name = _UNSAFE.sub("_", text).strip()
    name = re.sub(r"^\.+|[. ]+$", lambda found: "_" * len(found.group()), name) or "_"
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    encoded = name.encode("utf-8", "replace")
    if len(encoded) > _MAX_BYTES:
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        name = encoded[: _MAX_BYTES - 9].decode("utf-8", "ignore") + "~" + digest
    return name


class DistinctNames:
    """Makes safe names and keeps them apart, also where a file system does not tell upper from lower case."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def add(self, text: str) -> str:
        """Returns a safe name like ``text`` that was not returned before."""
        first = name = safe_name(text)
        number = 1
        while name.lower() in self._taken:
            number += 1
            name = f"{first}~{number}"
        self._taken.add(name.lower())
        return name


def without_suffix(name: PathLike) -> str:
    """Returns a path without the suffix of an image; other dots are part of the name."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else str(path)

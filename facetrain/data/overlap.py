"""People of one data set who are in another: by name, as far as names are known."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

_SEPARATORS = re.compile(r"[\s_-]+")


def fold_name(name: str) -> str:
    """Returns what two spellings of a name have in common: no capitals; ``_``, ``-`` and blanks are one blank."""
    return _SEPARATORS.sub(" ", unicodedata.normalize("NFC", name).casefold()).strip()


def shared_names(names: Sequence[str], others: Iterable[str]) -> list[str]:
    """Returns those of ``names`` that are, in some spelling, among ``others``; in their order.

    Args:
        names: identities of one data set.
        others: identities of another.
    """
    folded = {fold_name(other) for other in others} - {""}
    return [name for name in names if fold_name(name) in folded]


def names_from_paths(paths: Iterable[str]) -> list[str]:
    """Returns the identities in paths of images: the name of the folder of each, once, in order.

    Paths without a folder, such as ``"image 3"`` of sets that know no names, say nothing.
    """
    parents = (PurePath(path).parent.name for path in paths)
    return list(dict.fromkeys(parent for parent in parents if parent not in ("", ".", "..")))

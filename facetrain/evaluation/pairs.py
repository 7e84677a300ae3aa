"""Reading pair lists: tab-separated lists, LFW's ``pairs.txt`` and ``.bin`` files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facetrain.errors import InputError
from facetrain.evaluation.bin_format import load_bin
from facetrain.evaluation.pair_set import PairSet
from facetrain.files import PathLike

_LFW_SUFFIXES = (".jpg", ".png", ".jpeg")
_PICKLE_STARTS = (b"\x80", b"(l", b"(]", b"((")


class _Line(NamedTuple):
    """One pair of a list: its line number, whether it is one person, and the candidates for each image's path."""

    number: int
    is_same: bool
    first: tuple[str, ...]
    second: tuple[str, ...]


def load_pairs(path: PathLike, root: PathLike | None = None) -> PairSet:
    """Reads a verification set; what kind of file it is follows from its content.

    Three kinds are known:

    - lines ``issame<TAB>path<TAB>path`` with ``issame`` 1 or 0;
    - LFW's ``pairs.txt``: a line with the number of folds and of pairs (``10 300``), then ``name i j`` for two images
      of one person and ``name i name j`` for two persons; images are ``name/name_0001.jpg`` or ``name/0001.jpg``;
    - ``.bin`` files, see ``load_bin``.

    Args:
        path: the file.
        root: folder to which the paths in the list are relative; by default the folder of the list.

    Returns:
        the pairs in the order of the list; each image is read once, however many pairs it is in.

    Raises:
        InputError: if the file or an image it names is missing, or a line cannot be understood; names the line.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            start = handle.read(2)
            if path.suffix.lower() == ".bin" or start.startswith(_PICKLE_STARTS):
                return load_bin(path)
            text = (start + handle.read()).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read pair list '{path}': {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"pair list '{path}' is neither text nor a .bin verification set ({error})") from error
    rows = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not rows:
        raise InputError(f"pair list '{path}' is empty; expected lines 'issame<TAB>path<TAB>path' or LFW's pairs.txt")
    is_lfw = all(field.isdigit() for field in rows[0][1].split())
    lines = list(_lfw_lines(path, rows) if is_lfw else _tsv_lines(path, rows))
    if not lines:
        raise InputError(f"pair list '{path}' holds no pairs")
    return _read(path, Path(root) if root is not None else path.parent, lines)


def _tsv_lines(path: Path, rows: list[tuple[int, str]]) -> Iterator[_Line]:
    for number, row in rows:
        fields = row.split("\t")
        if len(fields) != 3 or fields[0] not in ("0", "1") or not all(fields):
            raise InputError(
                f"pair list '{path}', line {number}: expected 'issame<TAB>path<TAB>path' with issame 1 or 0, "
                f"received {row[:120]!r}"
            )
        yield _Line(number, fields[0] == "1", (fields[1],), (fields[2],))


def _lfw_lines(path: Path, rows: list[tuple[int, str]]) -> Iterator[_Line]:
    header = [int(field) for field in rows[0][1].split()]
    folds, per_fold = (header if len(header) == 2 else [1, *header])[:2]
    expected = 2 * folds * per_fold
    if len(header) > 2 or expected != len(rows) - 1:
        raise InputError(
            f"pair list '{path}': its first line {rows[0][1]!r} announces {expected} pairs, it holds {len(rows) - 1}"
        )
    for number, row in rows[1:]:
        fields = row.split("\t") if "\t" in row else row.split()
        if len(fields) == 3:
            fields.insert(2, fields[0])
        if len(fields) != 4 or not (fields[1].isdigit() and fields[3].isdigit()):
            raise InputError(
                f"pair list '{path}', line {number}: expected 'name i j' or 'name i name j', received {row[:120]!r}"
            )
        first, second = (_lfw_paths(fields[i], int(fields[i + 1])) for i in (0, 2))
        yield _Line(number, fields[0] == fields[2], first, second)


def _lfw_paths(name: str, number: int) -> tuple[str, ...]:
    stems = (f"{name}/{name}_{number:04d}", f"{name}/{number:04d}")
    return tuple(stem + suffix for suffix in _LFW_SUFFIXES for stem in stems)


def _read(path: Path, root: Path, lines: list[_Line]) -> PairSet:
    """Reads each image once; lines that name the same image share it."""
    index: dict[tuple[str, ...], int] = {}
    images: list[bytes] = []
    names: list[str] = []
    pairs = np.empty((len(lines), 2), np.int32)
    for row, line in enumerate(lines):
        for side, candidates in enumerate((line.first, line.second)):
            if candidates not in index:
                name, image = _read_first(path, root, line.number, candidates)
                index[candidates] = len(images)
                images.append(image)
                names.append(name)
            pairs[row, side] = index[candidates]
    return PairSet(images, np.array([line.is_same for line in lines]), pairs, names, path.stem)


def _read_first(path: Path, root: Path, number: int, candidates: tuple[str, ...]) -> tuple[str, bytes]:
    for name in candidates:
        try:
            return name, (root / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(
                f"pair list '{path}', line {number}: cannot read image '{root / name}': {error.strerror or error}"
            ) from error
    raise InputError(
        f"pair list '{path}', line {number}: there is no image {os.fspath(root / candidates[0])!r}; correct the line, "
        f"or give the folder to which the paths are relative as root"
    )

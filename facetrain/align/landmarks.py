"""The five landmarks of a face: where they belong in an aligned crop, and how they stand in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_path
from facetrain.images import IMAGE_SUFFIXES

LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Order of the landmarks; left and right are as seen in the image."""

ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)
"""Where the five landmarks belong in a crop of 112x112 pixels. Reference: Deng et al., CVPR 2019, arXiv 1801.07698."""
ARCFACE_TEMPLATE.flags.writeable = False

_COORDINATES = tuple(f"{name}_{axis}" for name in LANDMARK_NAMES for axis in "xy")
_MIN_SIZE = 16


class AlignmentError(InputError):
    """Landmarks from which no aligned crop can be made."""


def arcface_template(size: int = 112) -> np.ndarray:
    """Returns the ArcFace template for a square crop.

    Multiples of 128 use the template of the 128-pixel crop, which shows 8 more pixels on the left and right and 16
    below; any other size magnifies the 112-pixel crop. This is how published models of those sizes were trained.

    Args:
        size: side of the crop in pixels, at least 16.

    Returns:
        float64 [5, 2], pixels.
    """
    if size < _MIN_SIZE:
        raise AlignmentError(f"an aligned crop has at least {_MIN_SIZE} pixels a side, received size {size}")
    if size % 112 and size % 128 == 0:
        return (ARCFACE_TEMPLATE + [8.0, 0.0]) * (size / 128)
    return ARCFACE_TEMPLATE * (size / 112)


def is_mirrored(landmarks: np.ndarray) -> bool:
    """Returns whether the mirror image of the template fits better: left and right were mixed up, or the photograph.

    Args:
        landmarks: finite, [5, 2], pixels.
    """
    points, template = np.asarray(landmarks, np.float64), ARCFACE_TEMPLATE
    return bool(np.linalg.det((points - points.mean(axis=0)).T @ (template - template.mean(axis=0))) < 0)


def read_landmarks(path: PathLike) -> dict[str, np.ndarray]:
    """Reads a landmark table.

    The CSV file has a header with the columns ``identity, image, left_eye_x, left_eye_y, right_eye_x, ...,
    right_mouth_y`` in any order; further columns are ignored. ``image`` without the suffix of an image means ``.jpg``.

    Args:
        path: the CSV file, UTF-8.

    Returns:
        ``identity/image.jpg`` -> float32 [5, 2], pixels, in the order of the file. Values may be NaN or infinite.

    Raises:
        InputError: if the file is missing, empty or malformed, naming the line.
    """
    table: dict[str, np.ndarray] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            for line, key, points in _rows(handle, str(path)):
                if key in table:
                    raise InputError(f"{path}, line {line}: expected each image once, received {key!r} a second time")
                table[key] = points
    except OSError as error:
        raise InputError(f"cannot read landmarks {str(path)!r}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected landmarks as CSV in UTF-8, received something else: {error}") from error
    if not table:
        raise InputError(f"{path}: expected landmarks of at least one image, received a header alone")
    return table


def find_landmarks(table: Mapping[str, np.ndarray], image: str) -> np.ndarray | None:
    """Returns the landmarks of an image or None, also where file and table differ only in the image's suffix.

    Args:
        table: as ``read_landmarks`` returns it.
        image: path relative to the data's folder, with forward slashes.
    """
    found = table.get(image)
    return found if found is not None else table.get(str(PurePosixPath(image).with_suffix(".jpg")))


def write_landmarks(path: PathLike, table: Mapping[str, np.ndarray]) -> None:
    """Writes a landmark table that ``read_landmarks`` reads, atomically; coordinates are kept to 0.001 pixels."""
    with atomic_path(Path(path)) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("identity", "image", *_COORDINATES))
        for key, points in table.items():
            identity, _, image = key.rpartition("/")
            values = np.asarray(points, np.float64).reshape(len(_COORDINATES))
            writer.writerow((identity, image[:-4] if image.endswith(".jpg") else image, *(f"{v:.3f}" for v in values)))


def _rows(handle, name: str) -> Iterator[tuple[int, str, np.ndarray]]:
    reader = csv.reader(handle)
    header = [column.strip() for column in next(reader, [])]
    missing = [column for column in ("identity", "image", *_COORDINATES) if column not in header]
    if missing:
        shown = ",".join(header)[:80] or "nothing"
        raise InputError(f"{name}, line 1: expected a header with the columns {', '.join(missing)}, received {shown!r}")
    identity, image, *columns = (header.index(column) for column in ("identity", "image", *_COORDINATES))
    for row in reader:
        if not row:
            continue
        where = f"{name}, line {reader.line_num}"
        if len(row) != len(header):
            raise InputError(f"{where}: expected {len(header)} values as in the header, received {len(row)}")
        points = np.array([_number(row[c], header[c], where) for c in columns], np.float32).reshape(-1, 2)
        yield reader.line_num, _key(row[identity].strip(), row[image].strip(), where), points


def _number(text: str, column: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: expected a number of pixels as {column}, received {text!r}") from None


def _key(identity: str, image: str, where: str) -> str:
    if not image:
        raise InputError(f"{where}: expected the name of an image, received an empty value")
    name = image if image.lower().endswith(IMAGE_SUFFIXES) else f"{image}.jpg"
    return f"{identity}/{name}" if identity else name

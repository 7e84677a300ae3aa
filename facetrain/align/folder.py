"""Alignment of a whole folder of photographs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from facetrain.align.landmarks import AlignmentError, find_landmarks, is_mirrored, read_landmarks
from facetrain.align.warp import align_face
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder, write_json
from facetrain.images import ImageError, encode_jpeg, encode_png, is_image_file, read_image
from facetrain.progress import track

A = TypeVar("A")
B = TypeVar("B")

REPORT_NAME = "align_report.json"
JPEG_QUALITY = 95

_ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "jpg": lambda crop: encode_jpeg(crop, JPEG_QUALITY),
    "png": encode_png,
}
_CHUNK = 256


@dataclass(frozen=True)
class Skipped:
    """An image that was not aligned: its path relative to the source folder, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class AlignReport:
    """What ``align_folder`` did; the same is in ``align_report.json``."""

    source: str
    out: str
    size: int
    aligned: int
    skipped: list[Skipped] = field(default_factory=list)
    landmarks_without_image: int = 0

    def summary(self) -> str:
        """Returns one line with the counts."""
        reasons = Counter(skip.reason.split(":")[0] for skip in self.skipped)
        why = f" ({', '.join(f'{n} {reason}' for reason, n in reasons.most_common())})" if reasons else ""
        return f"aligned {self.aligned} images, skipped {len(self.skipped)}{why}"


def align_folder(
    source: PathLike,
    out: PathLike,
    landmarks: PathLike,
    size: int = 112,
    image_format: str = "jpg",
    overwrite: bool = False,
    show_progress: bool = False,
) -> AlignReport:
    """Aligns every image of a folder and writes the crops to a folder of the same layout.

    An image without landmarks, with unusable ones, or that cannot be decoded is skipped and listed, with the reason,
    in ``out/align_report.json``. ``out`` appears when all is done; nothing is left behind if the work is interrupted.

    Args:
        source: folder of photographs, ``<identity>/<image>.jpg``.
        out: folder to write.
        landmarks: CSV file, see ``read_landmarks``.
        size: side of the crops in pixels.
        image_format: ``"jpg"`` (quality 95) or ``"png"`` (without loss).
        overwrite: whether an existing ``out`` may be replaced.
        show_progress: whether to show progress on stderr.

    Returns:
        counts and the list of skipped images.

    Raises:
        InputError: if there is nothing to align, or ``out`` would overwrite something.
    """
    source, out = Path(source), Path(out)
    if image_format not in _ENCODERS:
        raise InputError(f"image_format must be one of {', '.join(_ENCODERS)}, received {image_format!r}")
    table = read_landmarks(landmarks)
    _check_folders(source, out, overwrite)
    jobs, skipped = _plan(source, table, image_format, landmarks)

    with atomic_folder(out) as temporary, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for identity in {target.parent for _, target, _ in jobs}:
            (temporary / identity).mkdir(parents=True, exist_ok=True)

        def align_one(job: tuple[str, Path, np.ndarray]) -> Skipped | None:
            image, target, points = job
            return _align_file(source / image, temporary / target, points, size, image)

        results = _map_in_order(pool, align_one, jobs)
        failed = [skip for skip in track(results, "aligning", len(jobs), show_progress) if skip]
        if len(failed) == len(jobs):
            raise InputError(f"none of {len(jobs)} images with landmarks could be aligned; first: {failed[0].reason}")
        report = AlignReport(
            source=str(source),
            out=str(out),
            size=size,
            aligned=len(jobs) - len(failed),
            skipped=sorted(skipped + failed, key=lambda skip: skip.image),
            landmarks_without_image=len(table) - len(jobs),
        )
        write_json(temporary / REPORT_NAME, asdict(report))
    return report


def _check_folders(source: Path, out: Path, overwrite: bool) -> None:
    if not source.is_dir():
        raise InputError(f"expected a folder of images, but {str(source)!r} is none; check the path")
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(f"expected separate folders to read and to write, received {str(source)!r} and {str(out)!r}")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise InputError(f"{str(out)!r} exists already; choose another folder, or allow overwriting")


def _plan(
    source: Path, table: dict[str, np.ndarray], image_format: str, landmarks: PathLike
) -> tuple[list[tuple[str, Path, np.ndarray]], list[Skipped]]:
    """Returns (image, target, landmarks) of all that can be tried, and the images that have none."""
    jobs, skipped, targets = [], [], {}
    for image in _images_below(source):
        points = find_landmarks(table, image)
        target = Path(image).with_suffix(f".{image_format}")
        if points is None:
            skipped.append(Skipped(image, "without landmarks"))
        elif target in targets:
            skipped.append(Skipped(image, f"same name: its crop would overwrite that of {targets[target]}"))
        else:
            targets[target] = image
            jobs.append((image, target, points))
    if not jobs and not skipped:
        raise InputError(f"expected images in subfolders of {str(source)!r}, found none")
    if not jobs:
        raise InputError(
            f"none of {len(skipped)} images below {str(source)!r} has landmarks in {str(landmarks)!r}; "
            f"the folder has {skipped[0].image!r}, the table has {next(iter(table))!r}"
        )
    return jobs, skipped


def _images_below(source: Path) -> Iterator[str]:
    for folder, subfolders, files in os.walk(source):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from ((Path(folder) / n).relative_to(source).as_posix() for n in sorted(files) if is_image_file(n))


def _align_file(path: Path, target: Path, points: np.ndarray, size: int, name: str) -> Skipped | None:
    try:
        crop = align_face(read_image(path), points, size)
        if is_mirrored(points):
            raise AlignmentError("expected left and right as seen in the image, received a mirrored face; swap columns")
    except AlignmentError as error:
        return Skipped(name, f"unusable landmarks: {error}")
    except ImageError as error:
        return Skipped(name, f"unreadable: {error}")
    target.write_bytes(_ENCODERS[target.suffix[1:]](crop))
    return None


def _map_in_order(pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """As ``pool.map``, without queueing all of a large data set at once."""
    items = iter(items)
    while chunk := list(islice(items, _CHUNK)):
        yield from pool.map(function, chunk)

"""From any source to any form in which data sets are kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facetrain.data.decoding import Unreadable, check_on_unreadable, refusal
from facetrain.data.label_table import read_labels
from facetrain.data.pack_job import PackFormat, PackJob, fetcher
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder
from facetrain.registry import Registry

_log = logging.getLogger(__name__)

FORMATS = Registry("format of a data set")
FORMATS.add("rec", "facetrain.data.pack_record:RecordFormat", "an InsightFace folder: train.rec, train.idx, property")
FORMATS.add("tfrecord", "facetrain.data.pack_tfrecord:TFRecordFormat", "TFRecord files of tf.train.Example")
FORMATS.add("folder", "facetrain.data.pack_images:ImagesFormat", "image files, one subfolder per identity")


class PackReport(NamedTuple):
    """What was packed.

    Attributes:
        folder: where it lies.
        num_images: images written.
        num_identities: identities of the source, also those without a readable image.
        num_bytes: size of the files that hold the images.
        image_size: height and width of the images in pixels, None where they may differ.
        skipped: images that could not be read, and why.
    """

    folder: Path
    num_images: int
    num_identities: int
    num_bytes: int
    image_size: tuple[int, int] | None
    skipped: list[Unreadable]


def pack_source(
    source: FaceSource,
    out: PathLike,
    format: str = "rec",
    quality: str | int = "keep",
    shards: int = 1,
    shuffle: bool = False,
    seed: int = 0,
    show_progress: bool = False,
    size: int = 112,
    on_unreadable: str = "skip",
    labels: PathLike | None = None,
) -> PackReport:
    """Writes a source in one of the forms of ``FORMATS``, reads it back and compares.

    Images are grouped by identity, or in random order with ``shuffle``. Further labels of the source are kept.

    Args:
        source: for ``"keep"`` in record files aligned crops of one size, otherwise anything.
        out: the folder; replaced if it holds an earlier set of the same files and nothing else.
        format: ``"rec"``, ``"tfrecord"`` or ``"folder"``.
        quality: ``"keep"`` copies the encoded images bit for bit; 1..100 stores the crops that training sees, aligned
            where the source has landmarks, as JPEG of that quality.
        shards: number of files among which the images are divided evenly.
        shuffle: whether to write in random order.
        seed: of that order.
        show_progress: whether to show how far it is.
        size: side of the crops in pixels; only used with a quality.
        on_unreadable: ``"skip"`` leaves out images that cannot be read, ``"fail"`` raises.
        labels: CSV table with the column ``path`` and columns of numbers, which become further labels.
    Raises:
        InputError: for wrong arguments, a folder in use, images that cannot be packed so, or a full disk.
    """
    writer: PackFormat = FORMATS.build(format)
    _check_arguments(source, quality, size, shards)
    check_on_unreadable(on_unreadable)
    writer.check(source, quality, shards, shuffle)
    out = _check_target(Path(out), writer)
    image_size = writer.kept_size(source) if quality == "keep" else (size, size)
    order = np.random.default_rng(seed).permutation(source.num_images) if shuffle else _grouped(source.labels)
    table = ([], None) if labels is None else read_labels(labels, source)
    job = PackJob(source, order, fetcher(source, quality, size), quality, shuffle, shards, image_size, *table)
    try:
        with atomic_folder(out) as folder:
            job, skipped = _write(writer, folder, job, on_unreadable, show_progress)
            num_bytes = sum(path.stat().st_size for path in writer.data_files(folder))
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror or error}") from error
    if skipped:
        _log.warning("left out %d of %d images, first %s: %s", len(skipped), source.num_images, *skipped[0])
    return PackReport(out, len(job.order), source.num_identities, num_bytes, image_size, skipped)


def pack_folder(
    source: FaceSource,
    out: PathLike,
    quality: str | int = "keep",
    shuffle: bool = False,
    seed: int = 0,
    show_progress: bool = False,
    size: int = 112,
    on_unreadable: str = "skip",
) -> PackReport:
    """Writes a source as an InsightFace folder: ``pack_source`` with ``format="rec"`` and one file."""
    return pack_source(source, out, "rec", quality, 1, shuffle, seed, show_progress, size, on_unreadable)


def _check_arguments(source: FaceSource, quality: str | int, size: int, shards: int) -> None:
    if quality != "keep" and (isinstance(quality, (str, bool)) or not 1 <= quality <= 100):
        raise InputError(f"quality is 'keep' or 1 to 100, received {quality!r}")
    if size < 1:
        raise InputError(f"size is at least 1 pixel, received {size!r}")
    if not 1 <= shards <= min(source.num_images, 99999):
        raise InputError(f"shards is 1 to the number of images, {source.num_images}, received {shards!r}")


def _check_target(out: Path, writer: PackFormat) -> Path:
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; give the name of a folder")
    names = sorted(child.name for child in out.iterdir()) if out.exists() else []
    others = [name for name in names if not writer.own_files.fullmatch(name)]
    if others:
        raise InputError(f"the folder {str(out)!r} already holds {others[0]!r}; give a new folder, or empty this one")
    return out


def _write(
    writer: PackFormat, folder: Path, job: PackJob, on_unreadable: str, show_progress: bool
) -> tuple[PackJob, list[Unreadable]]:
    """Writes and verifies; returns what was written in the end, and the images that were left out."""
    sums, unreadable = writer.write(folder, job, show_progress)
    skipped = list(unreadable.values())
    if skipped:
        if on_unreadable == "fail":
            raise refusal(skipped)
        kept = ~np.isin(job.order, list(unreadable))
        job, sums = job._replace(order=job.order[kept]), sums[kept]
        if not len(job.order):
            raise InputError(f"no image can be packed; {refusal(skipped)}")
        if writer.counts_first(job):
            job = job._replace(shards=min(job.shards, len(job.order)))
            for path in writer.data_files(folder):
                path.unlink()
            sums, again = writer.write(folder, job, show_progress)
            if again:
                raise refusal(list(again.values()))
    writer.finish(folder, job)
    writer.verify(folder, job, sums, show_progress)
    return job, skipped


def _grouped(labels: np.ndarray) -> np.ndarray:
    return np.argsort(labels, kind="stable")

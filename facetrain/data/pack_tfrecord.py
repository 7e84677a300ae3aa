"""TFRecord files of ``tf.train.Example``, which TensorFlow reads too."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from facetrain.data.decoding import Unreadable
from facetrain.data.pack_job import PackFormat, PackJob, check_keeps_alignment, verify_in_order
from facetrain.data.paths import safe_name
from facetrain.data.sources import FaceSource
from facetrain.data.tf_example import build_example
from facetrain.data.tfrecord import TFRecordWriter
from facetrain.data.tfrecord_fields import EXTRA, IDENTITY, IMAGE, LABEL, LANDMARKS, NAME
from facetrain.data.tfrecord_source import TFRecordSource
from facetrain.errors import InputError
from facetrain.images import ImageError, image_suffix
from facetrain.progress import track


class TFRecordFormat(PackFormat):
    """``train-00000-of-00008.tfrecord`` and on, each with its index; images of any size, with their landmarks."""

    own_files = re.compile(r"train-\d{5}-of-\d{5}\.tfrecord(\.index)?")

    def check(self, source: FaceSource, quality: str | int, shards: int, shuffle: bool) -> None:  # noqa: D102
        check_keeps_alignment(source, quality)
        if not all(source.identities):
            raise InputError("the name of an identity must not be empty; rename it")

    def write(  # noqa: D102
        self, folder: Path, job: PackJob, show_progress: bool
    ) -> tuple[np.ndarray, dict[int, Unreadable]]:
        sums, unreadable = [], {}
        for number, part in enumerate(job.parts()):
            path = folder / f"train-{number:05d}-of-{job.shards:05d}.tfrecord"
            written, bad = _write_file(path, job, part, show_progress)
            sums.append(written)
            unreadable.update(bad)
        return np.concatenate(sums), unreadable

    def data_files(self, folder: Path) -> list[Path]:  # noqa: D102
        return sorted(folder.glob("*.tfrecord"))

    def verify(self, folder: Path, job: PackJob, sums: np.ndarray, show_progress: bool) -> None:  # noqa: D102
        packed = TFRecordSource(folder, verify=True, show_progress=show_progress)
        verify_in_order(packed, folder, job, sums, show_progress, np.arange(len(job.order)))


def _write_file(
    path: Path, job: PackJob, part: np.ndarray, show_progress: bool
) -> tuple[np.ndarray, dict[int, Unreadable]]:
    sums = np.zeros(len(part), np.uint32)
    unreadable: dict[int, Unreadable] = {}
    source, extra, landmarks = job.source, job.extra_labels(), job.landmarks()
    with TFRecordWriter(path) as writer:
        what = "packing" if job.shards == 1 else f"packing {path.name}"
        for place, (index, data) in enumerate(track(job.fetched(part), what, len(part), show_progress)):
            if isinstance(data, Unreadable):
                unreadable[index] = data
                continue
            label = int(source.labels[index])
            example = {
                IMAGE: data,
                LABEL: label,
                IDENTITY: source.identities[label],
                NAME: safe_name(source.stem(index)) + _suffix(data),
            }
            if landmarks is not None:
                example[LANDMARKS] = landmarks[index].ravel()
            if extra is not None:
                example[EXTRA] = extra[index]
            writer.write(build_example(example))
            sums[place] = zlib.crc32(data)
    return sums, unreadable


def _suffix(data: bytes) -> str:
    try:
        return image_suffix(data)
    except ImageError:
        return ""

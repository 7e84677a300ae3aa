"""InsightFace folders, which MXNet and InsightFace read too."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from facetrain.align import AlignmentError
from facetrain.data.decoding import Unreadable
from facetrain.data.pack_job import PackFormat, PackJob, verify_in_order
from facetrain.data.record_shards import open_records
from facetrain.data.record_source import EXACT_FLOAT32, IDENTITIES_FILE, PROPERTY_FILE, RECORD_FILE
from facetrain.data.recordio import Record, RecordIOWriter
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.images import ImageError, decode_image
from facetrain.progress import track

_SIZES_SAMPLED = 64


class RecordFormat(PackFormat):
    """``train.rec``, ``train.idx``, ``property`` (``classes,height,width``), ``identities.txt`` (``label<TAB>name``).

    In order, record 0 is the header, images follow from record 1, and one record for each identity says which images
    are its own. In random order, and in several files ``train-00000.rec`` and on, the images stand from record 0 on,
    without header and identity records, as readers that go through a file from its start want them.
    """

    own_files = re.compile(r"train(-\d{5})?\.(rec|idx)|property|identities\.txt")

    def check(self, source: FaceSource, quality: str | int, shards: int, shuffle: bool) -> None:  # noqa: D102
        bare = shuffle or shards > 1
        total = source.num_identities if bare else source.num_images + source.num_identities + 1
        if total > EXACT_FLOAT32:
            what = "identities" if bare else "images and identities; shuffle=True needs no numbers for the images"
            raise InputError(f"labels of records are float32, exact up to {EXACT_FLOAT32}, received {total} {what}")
        for name in source.identities:
            if not name or name.splitlines() != [name]:
                raise InputError(f"the name of an identity must be one line of text, received {name!r}; rename it")

    def kept_size(self, source: FaceSource) -> tuple[int, int]:
        """Returns the size of the encoded images; refuses those that are not what training would see."""
        sizes = set()
        for index in np.unique(np.linspace(0, source.num_images - 1, _SIZES_SAMPLED).astype(np.int64)).tolist():
            try:
                (data,) = source.read([index])
                image = decode_image(data)
                aligned = np.array_equal(source.crop(index, image.shape[0]), decode_image(data, image.shape[0]))
            except (ImageError, AlignmentError):
                continue  # named by the writing, which reads every image
            if not aligned:
                what = "are raw photographs with landmarks, which records have no place for"
                raise InputError(f"images like {source.names(index)!r} {what}; give a quality to store aligned crops")
            sizes.add(image.shape[:2])
        if len(sizes) > 1:
            some = " and ".join(f"{height}x{width}" for height, width in sorted(sizes)[:2])
            what = f"images can be kept as they are if all have one size, found {some}"
            raise InputError(f"{what}; give a quality instead")
        if not sizes:
            raise InputError(f"none of the images that were tried can be decoded, such as {source.names(0)!r}")
        return sizes.pop()

    def counts_first(self, job: PackJob) -> bool:  # noqa: D102
        return job.shards > 1 or not job.shuffle

    def write(  # noqa: D102
        self, folder: Path, job: PackJob, show_progress: bool
    ) -> tuple[np.ndarray, dict[int, Unreadable]]:
        sums, unreadable = [], {}
        for number, part in enumerate(job.parts()):
            path = folder / (RECORD_FILE if job.shards == 1 else f"train-{number:05d}.rec")
            written, bad = _write_file(path, job, part, show_progress)
            sums.append(written)
            unreadable.update(bad)
        return np.concatenate(sums), unreadable

    def finish(self, folder: Path, job: PackJob) -> None:  # noqa: D102
        height, width = job.image_size or (0, 0)
        names = job.source.identities
        (folder / PROPERTY_FILE).write_text(f"{len(names)},{height},{width}", encoding="utf-8")
        lines = [f"{label}\t{name}\n" for label, name in enumerate(names)]
        (folder / IDENTITIES_FILE).write_text("".join(lines), encoding="utf-8")

    def data_files(self, folder: Path) -> list[Path]:  # noqa: D102
        return sorted(folder.glob("*.rec"))

    def verify(self, folder: Path, job: PackJob, sums: np.ndarray, show_progress: bool) -> None:  # noqa: D102
        verify_in_order(open_records(folder), folder, job, sums, show_progress, np.arange(len(job.order)))


def _write_file(
    path: Path, job: PackJob, part: np.ndarray, show_progress: bool
) -> tuple[np.ndarray, dict[int, Unreadable]]:
    sums = np.zeros(len(part), np.uint32)
    unreadable: dict[int, Unreadable] = {}
    extra = job.extra_labels()
    grouped = job.shards == 1 and not job.shuffle
    source = job.source
    with RecordIOWriter(path) as writer:
        if grouped:
            end = 1 + len(part)
            writer.write(0, Record.of(b"", (end, end + source.num_identities)))
        what = "packing" if job.shards == 1 else f"packing {path.name}"
        for place, (index, data) in enumerate(track(job.fetched(part), what, len(part), show_progress)):
            if isinstance(data, Unreadable):
                unreadable[index] = data
                continue
            key, label = place + grouped, int(source.labels[index])
            labels = label if extra is None else (label, *extra[index].tolist())
            writer.write(key, Record.of(data, labels, key))
            sums[place] = zlib.crc32(data)
        if grouped:
            _write_identities(writer, np.bincount(source.labels[part], minlength=source.num_identities))
    return sums, unreadable


def _write_identities(writer: RecordIOWriter, counts: np.ndarray) -> None:
    ends = np.cumsum(counts) + 1
    for identity, (count, end) in enumerate(zip(counts.tolist(), ends.tolist())):
        key = int(ends[-1]) + identity
        writer.write(key, Record.of(b"", (end - count, end), key))

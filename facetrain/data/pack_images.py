"""Folders of image files, one subfolder per identity."""

from __future__ import annotations

import csv
import re
import zlib
from pathlib import Path

import numpy as np

from facetrain.align.landmarks import write_landmarks
from facetrain.data.decoding import Unreadable
from facetrain.data.folder_source import FolderSource
from facetrain.data.pack_job import PackFormat, PackJob, check_keeps_alignment
from facetrain.data.paths import DistinctNames
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.images import ImageError, image_suffix
from facetrain.progress import track

LANDMARKS_FILE, LABELS_FILE = "landmarks.csv", "labels.csv"


class ImagesFormat(PackFormat):
    """``<identity>/<image>.jpg``, with ``landmarks.csv`` and ``labels.csv`` where there are such.

    Names become names of files that are safe on any system. Identities that are called by numbers get leading zeros, so
    that the order of the names is that of the numbers.
    """

    own_files = re.compile(r"(?!)")  # whose image files these are, nobody can tell: the folder must be new or empty

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def check(self, source: FaceSource, quality: str | int, shards: int, shuffle: bool) -> None:  # noqa: D102
        check_keeps_alignment(source, quality)
        if shards > 1 or shuffle:
            what = f"shards={shards}" if shards > 1 else "shuffle"
            raise InputError(f"a folder of images has neither shards nor an order, received {what}; leave it out")

    def write(  # noqa: D102
        self, folder: Path, job: PackJob, show_progress: bool
    ) -> tuple[np.ndarray, dict[int, Unreadable]]:
        sums = np.zeros(len(job.order), np.uint32)
        unreadable: dict[int, Unreadable] = {}
        source = job.source
        folders = identity_folders(source.identities)
        taken = [DistinctNames() for _ in folders]
        self._paths = {}
        for place, (index, data) in enumerate(track(job.fetched(job.order), "writing", len(job.order), show_progress)):
            label = int(source.labels[index])
            try:
                suffix = "" if isinstance(data, Unreadable) else image_suffix(data)
            except ImageError as error:
                data = Unreadable(source.names(index), str(error))
            if isinstance(data, Unreadable):
                unreadable[index] = data
                continue
            path = f"{folders[label]}/{taken[label].add(source.stem(index))}{suffix}"
            (folder / folders[label]).mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
            self._paths[index] = path
            sums[place] = zlib.crc32(data)
        return sums, unreadable

    def finish(self, folder: Path, job: PackJob) -> None:  # noqa: D102
        landmarks, extra = job.landmarks(), job.extra_labels()
        if landmarks is not None:
            known = {index: path for index, path in self._paths.items() if not np.isnan(landmarks[index]).any()}
            write_landmarks(folder / LANDMARKS_FILE, {path: landmarks[index] for index, path in known.items()})
        if extra is not None:
            with open(folder / LABELS_FILE, "w", encoding="utf-8", newline="") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(("path", *job.extra_names()))
                for index, path in self._paths.items():
                    writer.writerow((path, *("" if np.isnan(v) else repr(float(v)) for v in extra[index])))

    def data_files(self, folder: Path) -> list[Path]:  # noqa: D102
        return [folder / path for path in self._paths.values()]

    def verify(self, folder: Path, job: PackJob, sums: np.ndarray, show_progress: bool) -> None:  # noqa: D102
        packed = FolderSource(folder)
        found = {packed.names(index): index for index in range(packed.num_images)}
        wanted = [self._paths[index] for index in job.order.tolist()]
        if len(found) != len(wanted) or not set(wanted) <= set(found):
            raise InputError(f"{folder}: the files found are not those written; is the disk damaged?")
        for path, total in track(zip(wanted, sums), "verifying", len(wanted), show_progress):
            if zlib.crc32((folder / path).read_bytes()) != total:
                raise InputError(f"{folder / path} reads back other than it was written; is the disk damaged?")


def identity_folders(identities: list[str]) -> list[str]:
    """Returns the name of the folder of each identity: safe, distinct, and numbers in their order."""
    names = DistinctNames()
    if all(name.isascii() and name.isdigit() for name in identities):
        width = max(map(len, identities))
        return [names.add(name.zfill(width)) for name in identities]
    return [names.add(name) for name in identities]

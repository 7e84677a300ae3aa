"""From any source to an InsightFace folder, which MXNet and InsightFace read too."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facetrain.align import AlignmentError
from facetrain.data.decoding import Unreadable, check_on_unreadable, refusal, worker_count
from facetrain.data.record_source import (
    EXACT_FLOAT32,
    IDENTITIES_FILE,
    INDEX_FILE,
    PROPERTY_FILE,
    RECORD_FILE,
    RecordSource,
)
from facetrain.data.recordio import Record, RecordError, RecordIOWriter
from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder
from facetrain.images import ImageError, decode_image, encode_jpeg
from facetrain.progress import track

_log = logging.getLogger(__name__)

_OWN_FILES = {RECORD_FILE, INDEX_FILE, PROPERTY_FILE, IDENTITIES_FILE}
_CHUNK = 256
_SIZES_SAMPLED = 64


class PackReport(NamedTuple):
    """What was packed.

    Attributes:
        folder: where it lies.
        num_images: images written.
        num_identities: identities of the source, also those without a readable image.
        num_bytes: size of the ``.rec`` file.
        image_size: height and width of the images, in pixels.
        skipped: images that could not be read, and why.
    """

    folder: Path
    num_images: int
    num_identities: int
    num_bytes: int
    image_size: tuple[int, int]
    skipped: list[Unreadable]


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
    """Writes a source as an InsightFace folder, reads it back and compares.

    The folder holds ``train.rec``, ``train.idx``, ``property`` (``classes,height,width``) and ``identities.txt``
    (``label<TAB>name``). Images are grouped by identity: record 0 is the header, images follow from record 1, and one
    record for each identity says which images are its own. With ``shuffle`` the images stand in random order from
    record 0 on, without header and identity records, as readers that go through the file from its start want them.

    Args:
        source: aligned crops of one size for ``"keep"``, anything for a quality.
        out: the folder; replaced if it holds an earlier set of these files and nothing else.
        quality: ``"keep"`` copies the encoded images bit for bit; 1..100 stores the crops that training sees, aligned
            where the source has landmarks, as JPEG of that quality.
        shuffle: whether to write in random order.
        seed: of that order.
        show_progress: whether to show how far it is.
        size: side of the crops in pixels; only used with a quality.
        on_unreadable: ``"skip"`` leaves out images that cannot be read, ``"fail"`` raises.
    Raises:
        InputError: for wrong arguments, a folder in use, images that cannot be packed so, or a full disk.
    """
    _check_arguments(source, quality, size, shuffle)
    check_on_unreadable(on_unreadable)
    out = _check_target(Path(out))
    image_size = _kept_size(source) if quality == "keep" else (size, size)
    fetch = _fetcher(source, quality, size)
    order = np.random.default_rng(seed).permutation(source.num_images) if shuffle else _grouped(source.labels)
    try:
        with atomic_folder(out) as folder:
            sums, skipped = _write_records(folder, source, order, shuffle, fetch, show_progress)
            if skipped and on_unreadable == "fail":
                raise refusal(list(skipped.values()))
            if skipped:
                # The header counts the images and comes first: once more, with those that can be read.
                order = order[~np.isin(order, list(skipped))]
                if not len(order):
                    raise InputError(f"no image can be packed; {refusal(list(skipped.values()))}")
                sums, again = _write_records(folder, source, order, shuffle, fetch, show_progress)
                if again:
                    raise refusal(list(again.values()))
            _write_tables(folder, source, image_size)
            _verify(folder, source, order, sums, show_progress)
            num_bytes = (folder / RECORD_FILE).stat().st_size
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror or error}") from error
    left_out = list(skipped.values())
    if left_out:
        _log.warning("left out %d of %d images, first %s: %s", len(left_out), source.num_images, *left_out[0])
    return PackReport(out, len(order), source.num_identities, num_bytes, image_size, left_out)


def _check_arguments(source: FaceSource, quality: str | int, size: int, shuffle: bool) -> None:
    if quality != "keep" and (isinstance(quality, (str, bool)) or not 1 <= quality <= 100):
        raise InputError(f"quality is 'keep' or 1 to 100, received {quality!r}")
    if size < 1:
        raise InputError(f"size is at least 1 pixel, received {size!r}")
    total = source.num_identities if shuffle else source.num_images + source.num_identities + 1
    if total > EXACT_FLOAT32:
        what = "identities" if shuffle else "images and identities; shuffle=True needs no numbers for the images"
        raise InputError(f"labels of records are float32, exact up to {EXACT_FLOAT32}, received {total} {what}")
    for name in source.identities:
        if not name or name.splitlines() != [name]:
            raise InputError(f"the name of an identity must be one line of text, received {name!r}; rename it")


def _check_target(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; give the name of a folder")
    others = sorted({child.name for child in out.iterdir()} - _OWN_FILES) if out.exists() else []
    if others:
        raise InputError(f"the folder {str(out)!r} already holds {others[0]!r}; give a new folder, or empty this one")
    return out


def _kept_size(source: FaceSource) -> tuple[int, int]:
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
        raise InputError(f"images can be kept as they are if all have one size, found {some}; give a quality instead")
    if not sizes:
        raise InputError(f"none of the images that were tried can be decoded, such as {source.names(0)!r}")
    return sizes.pop()


def _grouped(labels: np.ndarray) -> np.ndarray:
    return np.argsort(labels, kind="stable")


def _fetcher(source: FaceSource, quality: str | int, size: int) -> Callable[[int], bytes | Unreadable]:
    def fetch(index: int) -> bytes | Unreadable:
        try:
            if quality != "keep":
                return encode_jpeg(source.crop(index, size), int(quality))
            (data,) = source.read([index])
            return data or Unreadable(source.names(index), "expected an encoded image, received 0 bytes")
        except (ImageError, AlignmentError) as error:
            return Unreadable(source.names(index), str(error))

    return fetch


def _fetch_all(order: np.ndarray, fetch: Callable[[int], bytes | Unreadable]) -> Iterator[bytes | Unreadable]:
    with ThreadPoolExecutor(worker_count(None), thread_name_prefix="pack") as pool:
        for start in range(0, len(order), _CHUNK):
            yield from pool.map(fetch, order[start : start + _CHUNK].tolist())


def _write_records(
    folder: Path,
    source: FaceSource,
    order: np.ndarray,
    shuffle: bool,
    fetch: Callable[[int], bytes | Unreadable],
    show_progress: bool,
) -> tuple[np.ndarray, dict[int, Unreadable]]:
    """Writes the images in ``order`` and returns the CRC-32 of each, uint32 [N], and those that cannot be read."""
    sums = np.zeros(len(order), np.uint32)
    unreadable: dict[int, Unreadable] = {}
    first = 0 if shuffle else 1
    with RecordIOWriter(folder / RECORD_FILE) as writer:
        if not shuffle:
            end = first + len(order)
            writer.write(0, Record.of(b"", (end, end + source.num_identities)))
        images = track(_fetch_all(order, fetch), "packing", len(order), show_progress)
        for place, (data, index) in enumerate(zip(images, order.tolist())):
            if isinstance(data, Unreadable):
                unreadable[index] = data
                continue
            writer.write(first + place, Record.of(data, int(source.labels[index]), first + place))
            sums[place] = zlib.crc32(data)
        if not shuffle:
            _write_identities(writer, np.bincount(source.labels[order], minlength=source.num_identities))
    return sums, unreadable


def _write_identities(writer: RecordIOWriter, counts: np.ndarray) -> None:
    ends = np.cumsum(counts) + 1
    for identity, (count, end) in enumerate(zip(counts.tolist(), ends.tolist())):
        key = int(ends[-1]) + identity
        writer.write(key, Record.of(b"", (end - count, end), key))


def _write_tables(folder: Path, source: FaceSource, image_size: tuple[int, int]) -> None:
    height, width = image_size
    (folder / PROPERTY_FILE).write_text(f"{source.num_identities},{height},{width}", encoding="utf-8")
    lines = [f"{label}\t{name}\n" for label, name in enumerate(source.identities)]
    (folder / IDENTITIES_FILE).write_text("".join(lines), encoding="utf-8")


def _verify(folder: Path, source: FaceSource, order: np.ndarray, sums: np.ndarray, show_progress: bool) -> None:
    packed = RecordSource(folder)
    names = np.array(packed.identities, object)[packed.labels]
    if len(names) != len(order) or (names != np.array(source.identities, object)[source.labels[order]]).any():
        raise RecordError(folder / RECORD_FILE, "the labels read back are not those written; is the disk damaged?")
    for place in track(range(len(order)), "verifying", show=show_progress):
        (data,) = packed.read([place])
        if zlib.crc32(data) != sums[place]:
            what = f"{packed.names(place)} reads back other than it was written; is the disk damaged?"
            raise RecordError(folder / RECORD_FILE, what)

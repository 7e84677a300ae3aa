"""Measures the input pipeline against decoding, plain NumPy and plain tf.data, all in one run on the same images.

    python benchmarks/data.py --images lfw/train --cores 2
    python benchmarks/data.py --json                        # generated faces

Every line is measured several times, in turns, and the median counts: on a shared machine look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import cv2
import numpy as np
import tensorflow as tf

from facetrain.data import DecodedCache, DecodingImages, EpochOrder, build_pipeline, open_source, pack_folder
from facetrain.data.folder_source import FolderSource
from facetrain.data.sources import FaceSource
from facetrain.images import encode_jpeg

SIZE = 112
COLOR_CROP = ["flip", "crop", "color"]
COLOR_WARP = ["flip", "warp", "color"]

Batches = Iterator[object]


class RepeatedSource(FaceSource):
    """A folder's images, over and over up to a count, held in memory."""

    def __init__(self, source: FolderSource, count: int):
        self._data = source.read(range(source.num_images))
        self.labels = np.resize(source.labels, count)
        self.identities = source.identities
        self._source = source

    def read(self, indices):
        return [self._data[index % len(self._data)] for index in indices]

    def names(self, index):
        return self._source.names(index % len(self._data))

    def fingerprint(self):
        return f"{self._source.fingerprint()} repeated {self.num_images}"


def main() -> None:
    options = _arguments()
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.images) if options.images else _generated(Path(scratch) / "faces")
        source = FolderSource(folder)
        subjects = _subjects(source, options, scratch, cores)
        rates = _measure(subjects, options)
    if options.json:
        print(json.dumps({"cores": cores, "batch": options.batch, "images_per_second": rates}))
    else:
        _table(rates, source.num_images, options, cores)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", help="folder of 112x112 JPEGs, one subfolder per identity; default: generated faces"
    )
    parser.add_argument("--count", type=int, default=50_000, help="images after repeating, 37.6 kB each on the disk")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0, help="per line and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, help="use the first so many processors only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _generated(folder: Path) -> Path:
    source = open_source({"kind": "synthetic", "identities": 50, "images": 10})
    for index in range(source.num_images):
        path = folder / source.names(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(source.crop(index, SIZE)))
    return folder


def _subjects(
    source: FolderSource, options: argparse.Namespace, scratch: str, cores: int
) -> dict[str, Callable[[], Batches]]:
    repeated = RepeatedSource(source, options.count)
    cache = DecodedCache.open_or_build(repeated, SIZE, Path(scratch) / "cache")
    pack_folder(repeated, Path(scratch) / "packed")
    records = open_source(Path(scratch) / "packed")
    tfrecord = _tfrecord(repeated, Path(scratch) / "train.tfrecord")
    order = EpochOrder(options.count, options.batch)

    def ours(augmentations, images=cache.images) -> Batches:
        return iter(build_pipeline(images, repeated.labels, order, augmentations))

    return {
        "cv2.imdecode, one thread": lambda: _decode(repeated, order, 1),
        f"cv2.imdecode, {cores} threads": lambda: _decode(repeated, order, cores),
        "plain tf.data from files, flip": lambda: _plain(source, options.batch, _flip),
        "plain tf.data from files, flip + crop + color": lambda: _plain(source, options.batch, _flip_crop_color),
        "plain tf.data from files, flip + warp + color": lambda: _plain(source, options.batch, _flip_warp_color),
        "plain tf.data from TFRecord, flip": lambda: _plain_tfrecord(tfrecord, options.batch),
        "numpy memmap gather": lambda: _gather(cache.images, order, False),
        "numpy memmap gather, flip": lambda: _gather(cache.images, order, True),
        "facetrain, .rec, decoding each time, flip": lambda: ours("flip", DecodingImages(records, SIZE)),
        "facetrain, cached": lambda: ours(()),
        "facetrain, cached, flip": lambda: ours("flip"),
        "facetrain, cached, flip + crop + color": lambda: ours(COLOR_CROP),
        "facetrain, cached, flip + warp + color": lambda: ours(COLOR_WARP),
    }


def _measure(subjects: dict[str, Callable[[], Batches]], options: argparse.Namespace) -> dict[str, float]:
    """Returns images per second: median over rounds, in each of which everything has its turn."""
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(options.rounds):
        for name, start in subjects.items():
            batches = start()
            for _ in range(3):
                next(batches)
            done, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < options.seconds:
                next(batches)
                done += 1
            rates[name].append(done * options.batch / (time.perf_counter() - begin))
            del batches
    return {name: statistics.median(values) for name, values in rates.items()}


def _table(rates: dict[str, float], num_images: int, options: argparse.Namespace, cores: int) -> None:
    gather, files = rates["numpy memmap gather, flip"], rates["plain tf.data from files, flip"]
    limit = rates[f"cv2.imdecode, {cores} threads"]
    print(f"{num_images} JPEGs of 112x112, repeated to {options.count}; batch {options.batch}, {cores} cores\n")
    print(f"{'':48} images/s  x decode limit  x gather+flip  x tf.data files")
    for name, rate in rates.items():
        print(f"{name:48} {rate:8,.0f}  {rate / limit:14.2f}  {rate / gather:13.2f}  {rate / files:15.2f}")


def _decode(source: RepeatedSource, order: EpochOrder, threads: int) -> Batches:
    def one(data: bytes) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def several(part: list[bytes]) -> list[np.ndarray]:
        return [one(data) for data in part]

    with ThreadPoolExecutor(threads) as pool:
        for data in _encoded(source, order):
            parts = [data[i::threads] for i in range(threads)]
            yield several(data) if threads == 1 else list(pool.map(several, parts))


def _encoded(source: RepeatedSource, order: EpochOrder) -> Iterator[list[bytes]]:
    step = 0
    while True:
        yield source.read(order.batch(*divmod(step, order.steps_per_epoch)))
        step += 1


def _gather(images: np.ndarray, order: EpochOrder, flip: bool) -> Batches:
    images = np.asarray(images)
    generator, step = np.random.default_rng(0), 0
    while True:
        batch = images[order.batch(*divmod(step, order.steps_per_epoch))]
        if flip:
            mirrored = generator.random(len(batch)) < 0.5
            batch[mirrored] = batch[mirrored, :, ::-1]
        step += 1
        yield batch


def _plain(source: FolderSource, batch: int, change: Callable[[tf.Tensor], tf.Tensor]) -> Batches:
    """The pipeline that the TensorFlow guides show: files, decode, change each image, batch."""
    paths = [str(source.path / source.names(index)) for index in range(source.num_images)]

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return change(tf.io.decode_jpeg(tf.io.read_file(path), channels=3)), label

    dataset = tf.data.Dataset.from_tensor_slices((paths, source.labels)).shuffle(len(paths)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch, drop_remainder=True)
    return iter(dataset.prefetch(2))


def _tfrecord(source: RepeatedSource, path: Path) -> str:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data, label in zip(source.read(range(source.num_images)), source.labels.tolist()):
            features = {
                "image_jpeg": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return str(path)


def _plain_tfrecord(path: str, batch: int) -> Batches:
    """As ``_plain``, reading one file from its start, with the usual shuffling in a buffer."""
    fields = {"image_jpeg": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def load(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, fields)
        return _flip(tf.io.decode_jpeg(example["image_jpeg"], channels=3)), example["label"]

    dataset = tf.data.TFRecordDataset(path).shuffle(4096).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch, drop_remainder=True)
    return iter(dataset.prefetch(2))


def _flip(image: tf.Tensor) -> tf.Tensor:
    return tf.image.random_flip_left_right(image)


def _flip_crop_color(image: tf.Tensor) -> tf.Tensor:
    image = tf.image.random_flip_left_right(image)
    image = tf.image.random_crop(tf.image.resize_with_crop_or_pad(image, SIZE + 8, SIZE + 8), [SIZE, SIZE, 3])
    return _color(image)


def _flip_warp_color(image: tf.Tensor) -> tf.Tensor:
    image = tf.image.random_flip_left_right(image)
    angle, zoom = tf.random.uniform([], -0.17, 0.17), tf.random.uniform([], 0.9, 1.1)
    shift = tf.random.uniform([2], -4.0, 4.0)
    a, b, centre = tf.cos(angle) * zoom, tf.sin(angle) * zoom, (SIZE - 1) / 2
    x, y = centre - a * centre + b * centre + shift[0], centre - b * centre - a * centre + shift[1]
    image = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([a, -b, x, b, a, y, 0.0, 0.0])[None],
        output_shape=[SIZE, SIZE],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]
    return _color(image)


def _color(image: tf.Tensor) -> tf.Tensor:
    image = tf.image.random_brightness(image, 0.2)
    image = tf.image.random_contrast(image, 0.8, 1.2)
    return tf.image.random_saturation(image, 0.8, 1.2)


if __name__ == "__main__":
    main()

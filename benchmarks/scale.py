"""Measures what large data sets cost: opening millions of records, shuffling an epoch, memory of training.

    python benchmarks/scale.py
    python benchmarks/scale.py --only open order --json
    python benchmarks/scale.py --only training --images 10000 100000 --folder /scratch

Record files are generated: tiny records for opening, so that what is timed is the library and not the disk, and small
real JPEG images for training. Each line is measured in a process of its own. Peak memory is VmHWM, for opening and
shuffling without what the process had before. It counts pages of mapped files, which the system takes back when it
needs them; "own" is the largest RssAnon that was seen, memory that is the process's alone. A training of a few steps is
the same for each number of images, so that what differs between its lines grows with the images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

from facetrain.data.recordio_format import HEADER_BYTES, MARK
from facetrain.data.recordio_index import write_index

SIZE = 32
STEPS = 20
BATCH = 64
TRAINING_IDENTITIES = 1000
PARTS = ("open", "order", "training")
_BLOCK = 1 << 18


def main() -> None:
    options = _arguments()
    if options.child:
        name, *arguments = options.child
        print(json.dumps(CHILDREN[name](*arguments)))
        return
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="facetrain-scale-", dir=options.folder) as folder:
        if "open" in options.only:
            rows += measure_opening(Path(folder), options.records, options.identities)
        if "order" in options.only:
            about = run_child("order", str(options.order))
            rows.append({"what": f"order of an epoch of {options.order:,}", **about})
        if "training" in options.only:
            for images in options.images:
                rows += measure_training(Path(folder), images)
    if options.json:
        print(json.dumps({"rows": rows}))
    else:
        print_rows(rows)


def measure_opening(folder: Path, records: int, identities: int) -> list[dict[str, object]]:
    """Opens a grouped set and one without header; returns a row for each."""
    rows = []
    for form, header in (("header and identity records", True), ("no header", False)):
        path = folder / "open" / "train.rec"
        write_records(path, [b"8 bytes."], records, identities, header)
        rows.append({"what": f"open {records:,} records, {header and identities or 0:,} of identities: {form}"})
        rows[-1].update(run_child("open", str(path)))
        path.unlink()
    return rows


def measure_training(folder: Path, images: int) -> list[dict[str, object]]:
    """Trains a few steps on generated records, decoded anew and from the disk cache; returns a row for each."""
    from facetrain.images import encode_jpeg

    ramp = np.add.outer(np.arange(SIZE), np.arange(SIZE))[:, :, None]
    pictures = [encode_jpeg((ramp * [1, 2, 3] + 4 * number).astype(np.uint8)) for number in range(64)]
    path = folder / f"train{images}" / "train.rec"
    write_records(path, pictures, images, TRAINING_IDENTITIES, header=True)
    rows = []
    for cache in ("none", "disk"):
        about = run_child("training", str(path.parent), cache, str(images), str(folder / "cache"))
        rows.append({"what": f"train {STEPS} steps on {images:,} images, cache {cache}", **about})
    path.unlink()
    return rows


def write_records(path: Path, payloads: list[bytes], images: int, identities: int, header: bool) -> None:
    """Writes a large InsightFace set fast: whole blocks of records at a time, each payload in turn."""
    path.parent.mkdir(exist_ok=True)
    padded = [payload + bytes(-len(payload) % 4) for payload in payloads]
    stride = 8 + HEADER_BYTES + max(map(len, padded))
    labels = np.sort(np.arange(images) % identities)
    offsets, end = [], 0
    with open(path, "wb") as file:
        if header:
            end += file.write(_pair(1 + images, 1 + images + identities, 0))
            offsets.append(np.array([0]))
        for start in range(0, images, _BLOCK):
            some = labels[start : start + _BLOCK]
            block = np.zeros((len(some), stride), np.uint8)
            words = block[:, : 8 + HEADER_BYTES].reshape(-1).view("<u4").reshape(len(some), -1)
            words[:, 0] = MARK
            words[:, 3] = some.astype("<f4").view("<u4")
            words[:, 4] = np.arange(start, start + len(some)) + header
            lengths = np.zeros(len(some), np.int64)
            for number, payload in enumerate(payloads):
                block[number :: len(payloads), 8 + HEADER_BYTES :][:, : len(payload)] = np.frombuffer(payload, np.uint8)
                lengths[number :: len(payloads)] = len(payload)
            words[:, 1] = HEADER_BYTES + lengths
            block[:, : 8 + HEADER_BYTES] = words.view(np.uint8)
            taken = 8 + HEADER_BYTES + (lengths + 3 & ~3)
            file.write(block[np.arange(stride) < taken[:, None]].tobytes())
            ends = end + np.cumsum(taken)
            offsets.append(ends - taken)
            end = int(ends[-1])
        if header:
            edges = np.searchsorted(labels, np.arange(identities + 1)) + 1
            table = b"".join(_pair(first, last, 0) for first, last in zip(edges[:-1].tolist(), edges[1:].tolist()))
            offsets.append(end + np.arange(identities) * (len(table) // identities))
            file.write(table)
    joined = np.concatenate(offsets)
    write_index(path.with_suffix(".idx"), range(len(joined)), joined.tolist())


def _pair(first: int, second: int, key: int) -> bytes:
    from facetrain.data.recordio_format import Record, frame

    return frame(Record.of(b"", (first, second), key).pack())


def run_child(*arguments: str) -> dict[str, object]:
    """Runs one measurement in a fresh process and returns what it found."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def child_open(path: str) -> dict[str, object]:
    """Opens a record file."""
    from facetrain.data.record_source import RecordSource

    def opened() -> str:
        source = RecordSource(path)
        source.read([0, source.num_images - 1])
        return f"{source.num_images:,} images, {source.num_identities:,} identities"

    return _measured(opened)


def child_order(images: str) -> dict[str, object]:
    """Shuffles one epoch."""
    from facetrain.data.sampling import EpochOrder

    order = EpochOrder(int(images), BATCH, seed=1)
    return _measured(lambda: f"first images {order.batch(0, 0)[:3].tolist()}")


def child_training(path: str, cache: str, images: str, cache_dir: str) -> dict[str, object]:
    """Trains a few steps."""
    from facetrain.config import config_from_dict
    from facetrain.experiment import train

    with tempfile.TemporaryDirectory(prefix="facetrain-scale-") as runs:
        config = config_from_dict(
            {
                "data": {"path": path, "size": SIZE, "batch_size": BATCH, "cache": cache, "cache_dir": cache_dir},
                "model": {"backbone": {"name": "mobilefacenet", "width": 0.125}, "embedding_size": 16},
                "stages": [{"epochs": STEPS * BATCH / int(images)}],
                "train": {"runs_dir": runs, "tensorboard": False, "checkpoint_every": 1000000},
            }
        )
        return _measured(lambda: train(config)["steps"], whole=True)


CHILDREN: dict[str, Callable[..., dict[str, object]]] = {
    "open": child_open,
    "order": child_order,
    "training": child_training,
}


def _measured(function: Callable[[], object], whole: bool = False) -> dict[str, object]:
    """Runs something and returns what it took; ``whole`` counts what the process had before too."""
    before = {field: 0.0 if whole else _status(field) for field in ("VmHWM", "RssAnon")}
    own, over = [_status("RssAnon")], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            own.append(_status("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    found = function()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    over.set()
    watcher.join()
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": round(_status("VmHWM") - before["VmHWM"], 1),
        "own_mb": round(max(own) - before["RssAnon"], 1),
        "found": str(found),
    }


def _status(field: str) -> float:
    """Returns a size of this process in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return round(int(line.split()[1]) / 1024, 1)
    raise SystemExit(f"/proc/self/status has no {field}: this measurement needs Linux")


def print_rows(rows: list[dict[str, object]]) -> None:
    """Prints one table."""
    width = max(len(str(row["what"])) for row in rows)
    print(f"{'what':<{width}}  {'wall s':>8}  {'cpu s':>8}  {'peak MiB':>9}  {'own MiB':>8}  found")
    for row in rows:
        numbers = f"{row['seconds']:>8.2f}  {row['cpu_seconds']:>8.2f}  {row['peak_mb']:>9.1f}  {row['own_mb']:>8.1f}"
        print(f"{row['what']:<{width}}  {numbers}  {row['found']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--records", type=int, default=5_822_653, help="images of the sets that are opened")
    parser.add_argument("--identities", type=int, default=85_742, help="identities of those sets")
    parser.add_argument("--order", type=int, default=17_091_657, help="images of the epoch that is shuffled")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="images trained on")
    parser.add_argument("--folder", type=Path, default=None, help="where to generate; about 6 GB")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

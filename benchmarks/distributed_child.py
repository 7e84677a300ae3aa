"""One process of ``benchmarks/distributed.py``, which trains some steps whenever it is told to.

    python benchmarks/distributed_child.py JOB SOCKET     # under horovodrun, with TF_CONFIG, or alone

It says place and process over the socket once it has built, traced and settled; then each line with a number of steps
is answered with what they took, and 0 ends it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

SETTLING = 2  # steps: the first traces
TINY = {"backbone": {"name": "mobilefacenet", "width": 0.125}, "identities": 64, "embedding": 8, "batch": 2, "size": 32}


class Training(NamedTuple):
    """A recogniser and the data of one process."""

    recognizer: Any
    data: Any

    def run(self, steps: int) -> dict[str, float]:
        """Returns the seconds, and those of processors, from the beginning of the first step to the end of the last."""
        from tensorflow import keras

        moments = []

        class Watch(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                moments.append((time.perf_counter(), time.process_time()))

            def on_train_batch_end(self, batch, logs=None):
                moments.append((time.perf_counter(), time.process_time()))

        self.recognizer.fit(self.data, steps_per_epoch=steps, verbose=0, callbacks=[Watch()])
        wall, processor = (end - begin for begin, end in zip(moments[0], moments[-1]))
        return {"seconds": wall, "processor": processor}


def build(job: dict[str, Any], runtime: Any) -> Training:
    """Returns a new recogniser and one constant batch, again and again."""
    import numpy as np
    import tensorflow as tf

    from facetrain import heads, losses
    from facetrain.models import FaceRecognizer, build_embedding_model
    from facetrain.models.weights import common_variables
    from facetrain.optimizers import MXNetSGD

    head = {"name": job["head"], **({"sample_rate": job["rate"]} if "rate" in job else {})}
    shape = (job["size"], job["size"], 3)
    with runtime.scope():
        network = build_embedding_model(job["backbone"], "gdc", job["embedding"], shape, job["precision"])
        head = heads.get(head, num_classes=job["identities"], collectives=runtime.collectives)
        recognizer = FaceRecognizer(network, head)
        optimizer = runtime.wrap_optimizer(MXNetSGD(learning_rate=0.001, momentum=0.9, weight_decay=5e-4))
        recognizer.compile(optimizer, losses.get("arcface"), gather_labels=runtime.gather_in_step)
    runtime.broadcast(common_variables(recognizer))
    rng = np.random.default_rng(runtime.rank)
    images = rng.integers(0, 256, (job["batch"], *shape), dtype=np.uint8)
    batch = {"image": images, "label": rng.integers(0, job["identities"], job["batch"]).astype(np.int32)}
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensors(batch).repeat().with_options(options)
    return Training(recognizer, runtime.distribute(dataset))


def speed(job: dict[str, Any], runtime: Any) -> Callable[[int], dict[str, Any]]:
    """Returns what times steps."""
    training = build(job, runtime)
    training.run(SETTLING)
    return training.run


def memory(job: dict[str, Any], runtime: Any) -> Callable[[int], dict[str, Any]]:
    """Returns what builds a recogniser and finds the bytes that it and its steps add to this process."""
    build({**job, **TINY}, runtime).run(SETTLING)

    def measure(steps: int) -> dict[str, Any]:
        before = status("VmRSS")
        training = build(job, runtime)
        training.run(steps)
        classes = training.recognizer.head.centres.shape[0]
        return {"held": status("VmRSS") - before, "bytes": status("VmHWM") - before, "classes": classes}

    return measure


def status(field: str) -> int:
    """Returns a size of this process in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}: this measurement needs Linux")


def place() -> int:
    """Returns the number of this process among those that train together."""
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
    return int(os.environ.get("HOROVOD_RANK", cluster.get("task", {}).get("index", 0)))


def main() -> None:
    """Takes the processors that are this process's, gets ready and does what it is told."""
    job = json.loads(sys.argv[1])
    own, first = job["processors"], job.get("first", 0)
    os.sched_setaffinity(0, {(first + place() * own + number) % (os.cpu_count() or 1) for number in range(own)})
    from facetrain.distributed import Runtime

    devices = ["CPU:0"] if job["kind"] == "mirrored" else None
    runtime = Runtime.create(job["kind"], devices=devices, **job.get("options", {}))
    work = {"speed": speed, "memory": memory}[job["job"]](job, runtime)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[2])
        with connection.makefile("rw") as lines:
            about = {"place": runtime.rank + job.get("first", 0), "process": os.getpid()}
            print(json.dumps(about), file=lines, flush=True)
            while steps := int(lines.readline() or 0):
                print(json.dumps(work(steps)), file=lines, flush=True)
    runtime.barrier()


if __name__ == "__main__":
    main()

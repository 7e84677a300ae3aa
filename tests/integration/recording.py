"""``facetrain`` with a train step that notes which images it got.

    python -m tests.integration.recording FILE ARGUMENTS...

For each executed step, every process appends one line to FILE: its rank, the number of updates made before, and the
indices of its part of the batch. The line is written from inside the step, so what was only prepared does not count.
See ``tests.integration.noting`` for lines that also say how many ranks there are, and which process this is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from facetrain.cli import main
from facetrain.models import FaceRecognizer

_PAUSE_S = 0.03  # per step, so that whoever wants to kill the process in mid-epoch can


def own_rank() -> list[int]:
    """Returns what a line begins with: the rank."""
    return [int(os.environ.get("HOROVOD_RANK", "0"))]


def record_steps(path: str, who: Callable[[], list[int]] = own_rank, pause_s: float = _PAUSE_S) -> None:
    """Makes every train step of this process append to ``path``."""
    train_step = FaceRecognizer.train_step
    # Lines of several processes do not mix, and what is written survives a SIGKILL.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(step: np.ndarray, indices: np.ndarray) -> np.int64:
        os.write(file, " ".join(map(str, [*who(), step, *indices])).encode() + b"\n")
        time.sleep(pause_s)
        return np.int64(step)

    def recorded(self: FaceRecognizer, data: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        noted = tf.numpy_function(note, [self.optimizer.iterations, data["index"]], tf.int64)
        with tf.control_dependencies([noted]):
            return train_step(self, {key: tf.identity(value) for key, value in data.items()})

    FaceRecognizer.train_step = recorded


if __name__ == "__main__":
    record_steps(sys.argv[1])
    sys.exit(main(sys.argv[2:]))

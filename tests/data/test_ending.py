"""The end of a process that leaves an iterator at work: no batch is cut off in the making, and the process does end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The iterator is alive, batches are in the making, each of them in many small turns of the interpreter's lock.
LEFT_AT_WORK = """
import sys, time
import numpy as np
from facetrain.data.pipeline import build_pipeline
from facetrain.data.sampling import EpochOrder

class Slow:
    shape, dtype = (64, 8, 8, 3), np.uint8
    def gather(self, indices, paint=None):
        print("begun", flush=True)
        for _ in range(100):
            time.sleep(0.005)
        print("made", flush=True)
        return np.zeros((len(indices), 8, 8, 3), np.uint8), indices

iterator = iter(build_pipeline(Slow(), np.arange(64) % 8, EpochOrder(64, 4), workers=2))
next(iterator)
sys.exit(3)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_batches_in_the_making_are_finished(threads):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_NUM_INTEROP_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", LEFT_AT_WORK], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("begun") == done.stdout.count("made") >= 2 and not done.stderr

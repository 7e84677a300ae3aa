"""The end of a process that leaves an iterator at work: no batch is cut off in the making, and the process does end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facetrain.data import pack_folder
from facetrain.data.folder_source import FolderSource
from tests.data.faces import write_folder

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

# The same with images of a record file, which are read while the process ends.
READING_RECORDS = """
import sys, time
from facetrain.data import DecodingImages, EpochOrder, build_pipeline, open_source

class Slow(DecodingImages):
    def gather(self, indices, paint=None):
        print("begun", flush=True)
        time.sleep(0.5)
        made = super().gather(indices)
        print("made", flush=True)
        return made

source = open_source(sys.argv[1])
images = Slow(source, 16, on_unreadable="fail")
iterator = iter(build_pipeline(images, source.labels, EpochOrder(source.num_images, 4), workers=2))
next(iterator)
sys.exit(3)
"""


def left(code: str, *arguments: str, threads: str = "2") -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_NUM_INTEROP_THREADS": threads}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_batches_in_the_making_are_finished(threads):
    done = left(LEFT_AT_WORK, threads=threads)
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("begun") == done.stdout.count("made") >= 2 and not done.stderr


def test_a_record_file_is_read_until_the_end(tmp_path):
    write_folder(tmp_path / "faces", {"ann": 32, "bob": 32})
    pack_folder(FolderSource(tmp_path / "faces"), tmp_path / "packed")
    done = left(READING_RECORDS, str(tmp_path / "packed"))
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("begun") == done.stdout.count("made") >= 2 and not done.stderr

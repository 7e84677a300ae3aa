"""A disk that is full on one of two ranks: one sentence, all end, and what was written before is there."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest

from facetrain.distributed.launch import find_horovodrun
from facetrain.experiment import resume
from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import train_arguments
from tests.integration.noting import Processes, noting

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
    ),
]
SETTINGS = {"train__epochs": 40, "train__checkpoint_every": 4, "evaluate": "[]", "schedule__warmup_steps": 2}
# Each rank with a cache folder of its own, as on hosts of their own.
_OWN_CACHE = 'XDG_CACHE_HOME="$1/$HOROVOD_RANK"; export XDG_CACHE_HOME; shift; exec "$@"'


@pytest.fixture
def small(tmp_path):
    """Mounts real file systems of a given size, and removes them in the end."""
    mounted = []

    def mount(name, size):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("needs the right to mount a small file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=False)


def sentences(said):
    return [line for line in said.splitlines() if "error: " in line]


def test_the_disk_of_the_run_gets_full(tmp_path, small, monkeypatch):
    disk = small("disk", "16m")
    run = disk / "runs" / "run"
    store, filler = CheckpointStore(run / "checkpoints"), disk / "filler"
    with Processes(tmp_path) as processes:
        processes.start_two(train_arguments(disk / "runs", "run", **SETTINGS))
        processes.wait_for(lambda notes: bool(store.steps()))
        _fill(filler)
        taken = processes.wait_for_ends()
        said = processes.said()
    assert taken < 60
    (sentence,) = sentences(said)
    assert "[0]<stderr>" in sentence and "no room" in sentence and "--resume" in sentence, said
    assert "lost rank" not in said and "]<stderr>:Traceback" not in said
    saved = store.latest().state["step"]
    assert saved == store.steps()[-1] >= 4 and not list(run.rglob(".step*"))
    filler.unlink()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 40", f"epochs: {saved // 6 + 1}"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert resume(run)["steps"] == (saved // 6 + 1) * 6


def test_the_cache_of_one_rank_finds_no_room(tmp_path, small):
    """Rank 1 cannot prepare its images, while the chief waits for it to begin."""
    small("caches/1", "64k")
    command = noting(tmp_path / "notes", *train_arguments(tmp_path / "runs", "run", **SETTINGS))
    with Processes(tmp_path) as processes:
        separate = ["sh", "-c", _OWN_CACHE, "sh", tmp_path / "caches"]
        processes.start([find_horovodrun(), "-np", "2", *map(str, separate), *command])
        processes.wait_for_ends(limit_s=240)
        said = processes.said()
    (sentence,) = sentences(said)
    assert "[1]<stderr>" in sentence and "free some space" in sentence and str(tmp_path / "caches" / "1") in sentence, (
        said
    )
    assert "lost rank" not in said and "]<stderr>:Traceback" not in said
    assert not (tmp_path / "runs" / "run" / "checkpoints").exists()


def _fill(file):
    """Writes until nothing more fits."""
    with open(file, "wb", buffering=0) as handle:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    handle.write(b"x" * size)
            except OSError:
                continue

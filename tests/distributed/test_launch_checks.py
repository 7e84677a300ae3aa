"""What is refused before the first process starts."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import pytest

from facetrain.distributed import launch_checks
from facetrain.errors import InputError


@pytest.fixture
def eight(tmp_path):
    """A folder as NVIDIA's driver keeps it, of eight GPUs."""
    folder = tmp_path / "gpus"
    for number in range(8):
        (folder / f"0000:{number:02x}:00.0").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 8), ("", 0), ("-1", 0), ("0,1", 2), ("0, 3,5", 3), ("0,-1,2", 1), ("0,1,2,3,4,5,6,7,8,9", 8), ("GPU-a", 1)],
)
def test_gpus_are_those_that_processes_will_see(eight, visible, count):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert launch_checks.count_gpus(environment, eight) == count


def test_without_a_driver_the_program_is_asked(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\necho 'GPU 1: H100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert launch_checks.count_gpus({}, tmp_path / "none") == 2
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch_checks.count_gpus({}, tmp_path / "none") == 0


def test_processes_fit_gpus():
    for processes, gpus in ((4, 0), (4, 4), (1, 8)):
        launch_checks.check_gpus(processes, gpus)
    with pytest.raises(InputError, match="4 processes are to start on this host, which has 2 GPUs"):
        launch_checks.check_gpus(4, 2)


def test_workers_of_a_host_share_its_gpus():
    share = launch_checks.gpu_environment
    assert [share(i, 2, 5, {})["CUDA_VISIBLE_DEVICES"] for i in range(2)] == ["0,1", "2,3"]
    assert share(1, 2, 4, {"CUDA_VISIBLE_DEVICES": "7,5,3,1"}) == {"CUDA_VISIBLE_DEVICES": "3,1"}
    assert share(0, 1, 4, {}) == share(1, 2, 0, {}) == {}


def test_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=60 << 20))
    check = launch_checks.check_shared_memory
    with pytest.raises(InputError, match="60 MB free, but 2 processes with GPUs share up to 64 MB .*--shm-size"):
        check(2, 2, tmp_path, {})
    check(1, 1, tmp_path, {})
    check(2, 0, tmp_path, {})  # Gloo
    check(2, 2, tmp_path, {"NCCL_SHM_DISABLE": "1"})
    check(2, 2, tmp_path / "none", {})


@pytest.fixture
def built_with(monkeypatch, tmp_path):
    """Says what Horovod was built with; returns how often it was asked."""
    asked = []

    def say(*parts):
        monkeypatch.setattr(launch_checks, "_probe", lambda python: asked.append(python) or list(parts))
        monkeypatch.setattr(
            launch_checks, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "horovod" / "__init__.py"))
        )
        return asked

    return say


def test_horovod_is_asked_once_for_each_build(built_with, tmp_path):
    asked = built_with("gloo")
    library = tmp_path / "horovod" / "tensorflow" / "mpi_lib.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"1")
    assert launch_checks.horovod_parts(cache=tmp_path) == launch_checks.horovod_parts(cache=tmp_path) == ["gloo"]
    assert len(asked) == 1
    library.write_bytes(b"22")
    built_with("gloo", "nccl")
    assert launch_checks.horovod_parts(cache=tmp_path) == ["gloo", "nccl"]
    for kept in tmp_path.glob("horovod-*.json"):
        kept.write_text("{")
    assert launch_checks.horovod_parts(cache=tmp_path) == ["gloo", "nccl"], "what cannot be read is asked again"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["nccl"], "built with gloo, without nccl, which averages gradients on GPUs: .*install_horovod.sh gpu"),
        (["mpi"], "without mpi, which runtime.average 'adasum' .*HOROVOD_WITH_MPI=1"),
    ],
)
def test_a_horovod_without_what_is_asked(built_with, tmp_path, wanted, message):
    built_with("gloo")
    assert launch_checks.check_horovod(["gloo"], cache=tmp_path) == ["gloo"]
    with pytest.raises(InputError, match=message):
        launch_checks.check_horovod(wanted, cache=tmp_path)


def test_a_missing_horovod(monkeypatch, tmp_path):
    monkeypatch.setattr(launch_checks, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="Horovod is not installed: .*scripts/install_horovod.sh"):
        launch_checks.check_horovod(["gloo"], cache=tmp_path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'ImportError: libtensorflow' >&2; exit 1", "does not load .ImportError: libtensorflow"),
        ("exec sleep 20", "does not say what it was built with"),
    ],
)
def test_a_horovod_that_does_not_load(tmp_path, monkeypatch, script, message):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(launch_checks, "_PROBE_TIMEOUT_S", 0.5 if "sleep" in script else 30)
    with pytest.raises(InputError, match=message):
        launch_checks.horovod_parts(str(python), tmp_path)


@pytest.mark.integration
def test_the_installed_horovod_says_what_horovodrun_says(tmp_path):
    pytest.importorskip("horovod.runner")
    from horovod.common.util import gloo_built, mpi_built, nccl_built

    expected = [n for n, built in {"gloo": gloo_built, "mpi": mpi_built, "nccl": nccl_built}.items() if built()]
    assert launch_checks.check_horovod(["gloo"], sys.executable, tmp_path) == expected
    (kept,) = tmp_path.glob("horovod-*.json")
    assert json.loads(kept.read_text()) == expected

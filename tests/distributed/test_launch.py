"""Command lines of the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from facetrain.distributed import launch_command
from facetrain.distributed.launch import find_horovodrun, tf_config
from facetrain.errors import InputError


@pytest.fixture
def python(tmp_path):
    """An interpreter's path with a horovodrun beside it."""
    run = tmp_path / "horovodrun"
    run.write_text("#!/bin/sh\n")
    run.chmod(0o755)
    return str(tmp_path / "python")


@pytest.mark.parametrize("strategy", ["single", "mirrored"])
def test_one_process(strategy):
    (launch,) = launch_command(strategy, 1, ["train", "x.yaml"])
    assert launch.argv[:5] == [sys.executable, "-m", "facetrain", "train", "x.yaml"]
    assert launch.argv[5:] == ["--set", f"runtime.kind={strategy}"]
    assert launch.env == {}


def test_horovod(python):
    (launch,) = launch_command("horovod", 4, ["train", "x.yaml"], hosts=["a:2", "b:2"], python=python)
    assert launch.argv[0] == find_horovodrun(python)
    assert launch.argv[1:5] == ["-np", "4", "-H", "a:2,b:2"]
    assert launch.argv[5:8] == [python, "-m", "facetrain"]
    assert launch.argv[-1] == "runtime.kind=horovod"
    assert "-H" not in launch_command("horovod", 2, ["train"], python=python)[0].argv


def test_multiworker():
    launches = launch_command("multiworker", 2, ["train"], hosts=["a:2222", "b:2223"])
    assert [json.loads(launch.env["TF_CONFIG"])["task"] for launch in launches] == [
        {"type": "worker", "index": 0},
        {"type": "worker", "index": 1},
    ]
    for launch in launches:
        assert json.loads(launch.env["TF_CONFIG"])["cluster"] == {"worker": ["a:2222", "b:2223"]}
    assert launches[0].argv == launches[1].argv
    assert json.loads(tf_config(["a:1"], 0))["task"]["index"] == 0


@pytest.mark.parametrize(
    "strategy, number, hosts, message",
    [
        ("horovd", 2, None, "did you mean 'horovod'"),
        ("single", 0, None, "at least 1"),
        ("mirrored", 2, None, "one process"),
        ("multiworker", 2, None, "needs one host:port"),
        ("multiworker", 2, ["a:1"], "need 2 host:port"),
        ("multiworker", 1, ["a"], "must be host:port"),
        ("multiworker", 1, ["a:x"], "must be host:port"),
    ],
)
def test_what_cannot_be_launched(strategy, number, hosts, message):
    with pytest.raises(InputError, match=message):
        launch_command(strategy, number, ["train"], hosts=hosts)


def test_missing_horovodrun(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="install_horovod.sh"):
        launch_command("horovod", 2, ["train"], python=str(tmp_path / "python"))


def test_launching_needs_no_tensorflow():
    code = (
        "import sys, facetrain.distributed as d; d.launch_command('single', 1, []); "
        "assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)

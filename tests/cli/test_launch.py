"""``facetrain launch``: what it prints, what it refuses, and that TensorFlow is not needed for it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from facetrain.cli import launch, main
from facetrain.distributed import launch_checks
from facetrain.distributed.outcome import Death, Outcome
from facetrain.distributed.threads import THREAD_VARIABLES


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine without GPUs, with a Horovod for Gloo, whose working directory is empty."""
    monkeypatch.chdir(tmp_path)
    for name in (*THREAD_VARIABLES, "CUDA_VISIBLE_DEVICES", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "bin" / "horovodrun"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(launch_checks, "count_gpus", lambda: 0)
    monkeypatch.setattr(launch_checks, "horovod_parts", lambda python, cache: ["gloo"])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: first\ntrain: {epochs: 1}\n")
    return str(path)


def plan(capsys, *arguments):
    code = main(["launch", *arguments])
    out = capsys.readouterr()
    assert code == 0, out.err
    return json.loads(out.out.strip().splitlines()[-1])


def refused(capsys, *arguments):
    assert main(["launch", *arguments]) == 2
    return capsys.readouterr().err


def test_a_plan_as_json(capsys, config):
    found = plan(capsys, "--strategy", "horovod", "--np", "2", "--threads", "3", "--dry-run", "--json", "--",
                 "train", config, "--set", "seed=3", "--name", "x")  # fmt: skip
    (process,) = found["processes"]
    assert process["argv"][1:3] == ["-np", "2"]
    train = process["argv"].index("train")
    assert process["argv"][train:] == [
        "train",
        config,
        "--set",
        "seed=3",
        "--name",
        "x",
        "--set",
        "runtime.kind=horovod",
    ]
    assert process["env"] == dict.fromkeys(THREAD_VARIABLES, "3")
    assert (found["strategy"], found["np"], found["threads"], found["here"]) == ("horovod", 2, 3, 2)
    assert found["checks"] == ["hosts answer: localhost", "GPUs here: 0", "Horovod is built with gloo"]


def test_a_plan_for_people_names_what_others_start(capsys, config):
    """192.0.2.1 is an address that nobody has."""
    hosts = "localhost:45678,192.0.2.1:45678"
    assert main(["launch", "-s", "multiworker", "--hosts", hosts, "--dry-run", "--", "train", config]) == 0
    here, there = capsys.readouterr().out.splitlines()
    assert here.startswith("env TF_CONFIG='") and here.endswith("--set runtime.kind=multiworker")
    assert there.endswith("# to be run on 192.0.2.1") and '"index": 1' in there


def test_elastic_flags(capsys, config, tmp_path):
    script = tmp_path / "hosts.sh"
    script.write_text("#!/bin/sh\necho localhost:2\n")
    script.chmod(0o755)
    found = plan(capsys, "-s", "horovod", "-n", "2", "--min-np", "1", "--max-np", "4", "--host-discovery-script",
                 str(script), "--dry-run", "--json", "--", "train", config)  # fmt: skip
    (process,) = found["processes"]
    assert process["argv"][1:9] == [
        "-np",
        "2",
        "--min-np",
        "1",
        "--max-np",
        "4",
        "--host-discovery-script",
        str(script),
    ]


def test_a_run_is_gone_on_with(capsys, tmp_path):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "config.yaml").write_text("name: x\ntrain: {epochs: 1}\nruntime: {kind: mirrored}\n")
    found = plan(capsys, "-s", "horovod", "-n", "2", "--dry-run", "--json", "--", "train", "--resume", "runs/x")
    assert found["processes"][0]["argv"][-4:] == ["--resume", "runs/x", "--set", "runtime.kind=horovod"]


TRAIN = ["-s", "horovod", "-n", "2", "--", "train"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "2", "--", "train", "c.yaml"], "Missing option '--strategy'"),
        (["-s", "horovd", "-n", "2", "--", "train", "c.yaml"], "strategy must be one of .*; did you mean 'horovod'"),
        (["-s", "horovod", "-n", "two", "--", "train", "c.yaml"], "valid int"),
        (["-s", "horovod", "-n", "2", "--treads", "2", "--", "train", "c.yaml"], "No such option: --treads"),
        (
            ["-s", "horovod", "-n", "2", "--threads", "many", "--", "train", "c.yaml"],
            "'auto' or a number, received 'many'",
        ),
        (["-s", "horovod", "-n", "2"], "Missing argument"),
        (
            ["-s", "horovod", "-n", "2", "--", "trane", "c.yaml"],
            "launch starts 'train', received 'trane'; did you mean",
        ),
        ([*TRAIN, "c.yaml", "--sett", "a=1"], "No such option: --sett"),
        ([*TRAIN], "give a config file"),
        ([*TRAIN, "none.yaml"], "none.yaml"),
        ([*TRAIN, "c.yaml", "--set", "train.epoch=3"], "unknown config key 'train.epoch'"),
        ([*TRAIN, "c.yaml", "--set", "head=cosin"], "head: unknown head 'cosin'; did you mean 'cosine'"),
        ([*TRAIN, "c.yaml", "--set", "data.path=none"], "data.path: 'none' does not exist"),
        ([*TRAIN, "c.yaml", "--set", "runtime.average=adasum"], "built with gloo, without mpi"),
        ([*TRAIN, "c.yaml", "--set", "runtime.threads=0"], "'runtime.threads'.*'auto' or a whole number"),
        ([*TRAIN, "--resume", "runs/none"], "expected a run directory"),
        (
            ["-s", "multiworker", "-n", "2", "--", "train", "c.yaml", "--set", "runtime.fusion_mb=8"],
            "fusion_mb is a setting",
        ),
        (
            ["-s", "horovod", "--hosts", "no-such-host.invalid:2", "--", "train", "c.yaml"],
            "host 'no-such-host.invalid' is unk",
        ),
        (["-s", "horovod", "-H", "a:1", "--hostfile", "h", "--", "train", "c.yaml"], "both are given"),
        (["-s", "horovod", "--hostfile", "none", "--", "train", "c.yaml"], "host file cannot be read"),
        (["-s", "single", "--ssh", "--", "train", "c.yaml"], "--ssh starts the workers"),
    ],
)
def test_what_is_refused_before_anything_starts(capsys, config, monkeypatch, arguments, message):
    monkeypatch.setattr(launch, "_start", lambda *_: pytest.fail("started"))
    assert re.search(message, " ".join(refused(capsys, *arguments).replace("│", "").split()))


def test_a_run_of_this_name_exists(capsys, config, tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert "give --resume runs/first, or another --name" in refused(capsys, *TRAIN, config)


def test_more_processes_than_gpus(capsys, config, monkeypatch):
    monkeypatch.setattr(launch_checks, "count_gpus", lambda: 1)
    assert "2 processes are to start on this host, which has 1 GPUs" in refused(capsys, *TRAIN, config)


def test_a_port_that_is_taken(capsys, config):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        text = refused(capsys, "-s", "multiworker", "--hosts", f"localhost:{port}", "--", "train", config)
    assert f"port {port} of localhost is in use" in text


def test_a_host_whose_ssh_does_not_answer(capsys, config, monkeypatch):
    from facetrain.distributed import hosts

    monkeypatch.setattr(hosts, "is_here", lambda name: False)
    (port,) = hosts.free_ports(1)
    arguments = ["-s", "horovod", "--hosts", "127.0.0.1:2", "--ssh-port", str(port), "--", "train", config]
    assert f"cannot be reached by ssh on port {port}" in refused(capsys, *arguments)


def test_horovod_is_missing(capsys, config, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "horovodrun is not installed: build it with `bash scripts/install_horovod.sh`" in refused(
        capsys, *TRAIN, config
    )


@pytest.mark.parametrize(
    ("outcome", "code", "text"),
    [
        (Outcome(False, {0: 130, 1: 137}, Death(1, 137, ["oom"]), False), 1, "rank 1 was killed by SIGKILL"),
        (Outcome(False, {1: 2}, Death(1, 2, ["error: no"]), False), 2, "rank 1 ended with exit code 2"),
        (
            Outcome(True, {0: 130}, Death(0, 130, []), False),
            130,
            "stopped: go on with 'facetrain train --resume runs/f",
        ),
        (Outcome(False, {}, None, False), 0, ""),
    ],
)
def test_the_end_is_told(capsys, config, monkeypatch, tmp_path, outcome, code, text):
    from facetrain.distributed import supervise

    class Ended:
        def __init__(self, jobs, write, grace, elastic):
            (tmp_path / "runs" / "first").mkdir(parents=True)
            assert jobs[0].rank is None and grace == 9.0 and elastic is False

        def run(self):
            return outcome

    monkeypatch.setattr(supervise, "Supervisor", Ended)
    assert main(["launch", "--json", "--grace", "9", *TRAIN, config]) == code
    out = capsys.readouterr()
    assert text in out.err
    result = json.loads(out.out.strip().splitlines()[-1])
    assert result["exit_code"] == code and result["run"] == "runs/first" and result["stopped"] is outcome.stopped
    if code == 1:
        assert "go on with 'facetrain train --resume runs/first'" in out.err
        assert result["failed"] == {"rank": 1, "code": 137, "lines": ["oom"]}


def test_the_launcher_imports_no_tensorflow(config):
    code = (
        "import sys; from facetrain.cli import main; code = main(sys.argv[1:]); "
        "assert not any(name.split('.')[0] in ('tensorflow', 'horovod') for name in sys.modules); sys.exit(code)"
    )
    arguments = ["launch", "-s", "multiworker", "-n", "2", "--dry-run", "--json", "--", "train", config]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment, timeout=60)

"""From what was asked for to the processes to start."""

from __future__ import annotations

import json
import os
import sys

import pytest

from facetrain.distributed import launch_checks, launch_plan
from facetrain.distributed.hosts import free_ports
from facetrain.distributed.launch import Elastic
from facetrain.distributed.launch_plan import Wish, check_plan, make_plan
from facetrain.distributed.threads import THREAD_VARIABLES
from facetrain.errors import InputError

TRAIN = ["train", "x.yaml"]


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Four cores, no GPU, the hosts ``a`` and ``localhost`` are this one; a horovodrun."""
    for name in (*THREAD_VARIABLES, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "horovodrun"
    run.write_text("#!/bin/sh\n")
    run.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(launch_checks, "count_gpus", lambda: 0)
    monkeypatch.setattr(launch_plan, "is_here", lambda name: name in ("a", "localhost"))
    monkeypatch.setattr(launch_plan, "threads_for", lambda processes: max(4 // processes, 1))


def threads_of(launch):
    return {launch.env.get(name) for name in THREAD_VARIABLES}


def test_one_process_keeps_its_threads_unless_told():
    plan = make_plan(Wish("mirrored", TRAIN))
    assert plan.threads is None and plan.workers[0].launch.env == {} and plan.np == 1
    assert threads_of(make_plan(Wish("single", TRAIN, threads=3)).workers[0].launch) == {"3"}


def test_horovod_on_this_host():
    plan = make_plan(Wish("horovod", TRAIN, np=2))
    (worker,) = plan.workers
    assert worker.rank is None and worker.starts == "here" and plan.here == 2
    assert worker.launch.argv[1:3] == ["-np", "2"] and "-H" not in worker.launch.argv
    assert threads_of(worker.launch) == {"2"} and plan.threads == 2
    assert plan.names == ["rank 0", "rank 1"]


def test_horovod_on_hosts():
    plan = make_plan(Wish("horovod", TRAIN, hosts=("a:1", "b:3"), ssh_port=2200))
    argv = plan.workers[0].launch.argv
    assert plan.np == 4 and argv[1:7] == ["-np", "4", "-H", "a:1,b:3", "--ssh-port", "2200"]
    assert plan.names == ["rank 0 on host a", "rank 1 on host b", "rank 2 on host b", "rank 3 on host b"]
    assert plan.here == 1 and plan.threads == 1, "all hosts get one environment: that of the fullest"
    assert make_plan(Wish("horovod", TRAIN, np=3, hosts=("a:2", "b:2"))).here == 2


def test_elastic(tmp_path):
    script = tmp_path / "hosts.sh"
    script.write_text("#!/bin/sh\necho localhost:2\n")
    script.chmod(0o755)
    (worker,) = make_plan(Wish("horovod", TRAIN, np=2, elastic=Elastic(1, 4, str(script)))).workers
    flags = ["-np", "2", "--min-np", "1", "--max-np", "4", "--host-discovery-script", str(script)]
    alone = ["--network-interfaces", "lo"]
    assert worker.launch.argv[1:11] == [*flags, *alone]
    (worker,) = make_plan(Wish("horovod", TRAIN, np=2, hosts=("a:4",), elastic=Elastic(1))).workers
    assert worker.launch.argv[1:9] == ["-np", "2", "--min-np", "1", "-H", "a:4", *alone]
    script.write_text("#!/bin/sh\necho localhost:1; echo; echo b:3\n")
    plan = make_plan(Wish("horovod", TRAIN, elastic=Elastic(2, None, str(script))))
    argv = plan.workers[0].launch.argv
    assert plan.np == 4 and plan.here == 1 and plan.names[1] == "rank 1 on host b"
    assert "-H" not in argv and "--network-interfaces" not in argv
    plan = make_plan(Wish("horovod", TRAIN, elastic=Elastic(2, None, str(script)), interface="eth0"))
    argv = plan.workers[0].launch.argv
    assert argv[argv.index("--network-interfaces") + 1] == "eth0"
    script.write_text("#!/bin/sh\necho no nodes >&2; exit 3\n")
    with pytest.raises(InputError, match="ended with 3 .no nodes"):
        make_plan(Wish("horovod", TRAIN, np=2, elastic=Elastic(1, 4, str(script))))
    script.chmod(0o644)
    with pytest.raises(InputError, match="cannot be run .*Permission denied"):
        make_plan(Wish("horovod", TRAIN, np=2, elastic=Elastic(1, 4, str(script))))


def test_workers_of_this_host_and_of_others():
    plan = make_plan(Wish("multiworker", TRAIN, hosts=("a:2222", "b:2222", "a:2223")))
    assert [worker.starts for worker in plan.workers] == ["here", "there", "here"]
    assert [json.loads(one.launch.env["TF_CONFIG"])["task"]["index"] for one in plan.workers] == [0, 1, 2]
    assert [threads_of(one.launch) for one in plan.workers] == [{"2"}, {"4"}, {"2"}]
    assert plan.threads == 2 and plan.here == 2 and plan.names[1] == "rank 1 on b:2222"


def test_far_workers_by_ssh(monkeypatch):
    plan = make_plan(Wish("multiworker", TRAIN, hosts=("a:2222", "b:2222"), by_ssh=True, ssh_port=2200))
    far = plan.workers[1]
    assert far.starts == "ssh" and far.launch.argv[0] == "ssh" and far.launch.argv[-2] == "b"
    assert far.launch.argv[far.launch.argv.index("-p") + 1] == "2200"
    line = far.launch.argv[-1]
    assert line.startswith(f"cd {os.getcwd()} && exec env TF_CONFIG='") and line.endswith("runtime.kind=multiworker")
    assert make_plan(Wish("multiworker", TRAIN, hosts=("b:1", "c:1"), by_ssh=True)).here == 0


def test_workers_without_hosts_get_free_ports_of_this_one():
    plan = make_plan(Wish("multiworker", TRAIN, np=3))
    cluster = json.loads(plan.workers[0].launch.env["TF_CONFIG"])["cluster"]["worker"]
    assert len(set(cluster)) == 3 and all(name.startswith("localhost:") for name in cluster)


def test_workers_of_a_host_share_its_gpus(monkeypatch):
    monkeypatch.setattr(launch_checks, "count_gpus", lambda: 4)
    plan = make_plan(Wish("multiworker", TRAIN, np=2))
    assert [one.launch.env["CUDA_VISIBLE_DEVICES"] for one in plan.workers] == ["0,1", "2,3"]
    with pytest.raises(InputError, match="6 processes are to start on this host, which has 4 GPUs"):
        wish = Wish("multiworker", TRAIN, np=6)
        check_plan(wish, make_plan(wish))


def test_threads_that_the_environment_names_stay(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    plan = make_plan(Wish("horovod", TRAIN, np=2))
    assert "TF_NUM_INTRAOP_THREADS" not in plan.workers[0].launch.env and plan.threads == 1
    assert plan.workers[0].launch.env["OMP_NUM_THREADS"] == "2"
    assert threads_of(make_plan(Wish("horovod", TRAIN, np=2, threads=3)).workers[0].launch) == {"3"}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("horovd", TRAIN), "did you mean 'horovod'"),
        (Wish("horovod", TRAIN), "give the number of processes"),
        (Wish("horovod", TRAIN, np=0), "at least 1, received 0"),
        (Wish("horovod", TRAIN, np=-1), "at least 1, received -1"),
        (Wish("horovod", TRAIN, np=5, hosts=("a:2", "b:2")), "needs as many slots, but --hosts a:2,b:2 has 4"),
        (Wish("horovod", TRAIN, np=2, threads=0), "--threads must be 'auto' or at least 1"),
        (Wish("horovod", TRAIN, np=2, by_ssh=True), "--ssh starts the workers of strategy 'multiworker'"),
        (Wish("horovod", TRAIN, np=2, elastic=Elastic(3)), "must grow in this order from 1 on, received 3 <= 2"),
        (Wish("horovod", TRAIN, np=2, elastic=Elastic(1, 1)), "received 1 <= 2 <= 1"),
        (Wish("horovod", TRAIN, np=2, elastic=Elastic(1, 2)), "need --host-discovery-script"),
        (Wish("horovod", TRAIN, np=2, hosts=("a:2",), elastic=Elastic(1, 2, "s")), "both are given"),
        (Wish("mirrored", TRAIN, np=2), "one process"),
        (Wish("mirrored", TRAIN, elastic=Elastic(1)), "'horovod' only"),
        (Wish("multiworker", TRAIN), "needs one host:port"),
        (Wish("multiworker", TRAIN, np=3, hosts=("a:1", "b:1")), "need 3 host:port"),
        (Wish("multiworker", TRAIN, hosts=("a:1", "b")), "host:port, received 'b'"),
        (Wish("multiworker", TRAIN, hosts=("b:1", "c:1")), "none of the hosts b, c is this one"),
        (Wish("multiworker", TRAIN, np=2, elastic=Elastic(1)), "'horovod' only"),
    ],
)
def test_what_does_not_go_together(wish, message):
    with pytest.raises(InputError, match=message):
        make_plan(wish)


def test_what_is_checked_before_the_start(monkeypatch):
    asked = []
    monkeypatch.setattr(launch_checks, "check_horovod", lambda parts, python: asked.append((parts, python)) or ["gloo"])
    wish = Wish("horovod", TRAIN, np=2, wants=("mpi",))
    done = check_plan(wish, make_plan(wish))
    assert done == ["hosts answer: localhost", "GPUs here: 0", "Horovod is built with gloo"]
    monkeypatch.setattr(launch_checks, "count_gpus", lambda: 2)
    monkeypatch.setattr(launch_checks, "check_shared_memory", lambda processes, gpus: asked.append((processes, gpus)))
    check_plan(wish, make_plan(wish))
    assert asked == [(["gloo", "mpi"], sys.executable), (2, 2), (["gloo", "nccl", "mpi"], sys.executable)]
    port, other = free_ports(2)
    wish = Wish("multiworker", TRAIN, hosts=(f"localhost:{port}", f"localhost:{other}"))
    assert check_plan(wish, make_plan(wish))[-1] == "ports are free"


def test_an_interface_that_is_not_there(monkeypatch):
    monkeypatch.setattr(launch_checks, "check_horovod", lambda parts, python: ["gloo"])
    for name in ("lo", None):
        wish = Wish("horovod", TRAIN, np=2, interface=name)
        assert check_plan(wish, make_plan(wish))
    with pytest.raises(InputError, match="--network-interface: this host has .*lo.*, received 'eth77'"):
        wish = Wish("horovod", TRAIN, np=2, interface="eth77")
        check_plan(wish, make_plan(wish))


def test_plans_are_ready_for_json():
    plan = make_plan(Wish("multiworker", TRAIN, np=2))
    described = json.loads(json.dumps(plan.describe()))
    assert described["processes"][1]["rank"] == 1 and described["np"] == 2 and described["threads"] == 2

"""Two hosts with addresses of their own train together; then the network between them is gone."""

from __future__ import annotations

import importlib.util

import pytest

from facetrain.distributed.launch import find_horovodrun
from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import is_running, train_arguments
from tests.integration.noting import Processes, noting
from tests.integration.test_lost_ranks import SETTINGS, SILENCE_S, messages
from tests.namespaces import cut_cable, reason_to_skip, two_hosts

_REASON = reason_to_skip()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(_REASON is not None, reason=str(_REASON)),
]
# Horovod starts ranks of other hosts by ssh: this one enters the other namespace. Options and host come first.
_SSH = """#!/bin/sh
while [ $# -gt 1 ]; do shift; done
exec ip netns exec {name} sh -c "$1"
"""


@pytest.fixture
def hosts():
    with two_hosts() as hosts:
        yield hosts


@pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="Horovod is not installed")
def test_both_hosts_end_with_a_message_each(tmp_path, hosts):
    run = tmp_path / "runs" / "run"
    arguments = train_arguments(
        tmp_path / "runs", "run", **{**SETTINGS, "train__epochs": 20, "runtime__peer_timeout": SILENCE_S}
    )
    with Processes(tmp_path) as processes:
        _start_over_ssh(processes, hosts, arguments)
        pids = processes.wait_for_step(6)
        cut_cable(hosts[0])
        processes.wait_for_ends()
        assert not any(is_running(pid) for pid in pids.values())
        said = messages(processes.said())
    assert sorted(line[line.index("lost rank") :].split()[2] for line in said) == ["0", "1"]
    assert all(f"no sign of life for {SILENCE_S} s" in line and f"--resume {run}'" in line for line in said)
    assert CheckpointStore(run / "checkpoints").latest().state["step"] >= 4


def _start_over_ssh(processes, hosts, arguments):
    ssh = processes.folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(_SSH.format(name=hosts[1].name))
    ssh.chmod(0o755)
    where = ",".join(f"{host.address}:1" for host in hosts)
    command = [find_horovodrun(), "-np", "2", "-H", where, "--network-interface", "cable"]
    path = f"{ssh.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    processes.start([*hosts[0].prefix, *command, *noting(processes.notes, *arguments)], PATH=path)

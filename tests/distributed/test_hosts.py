"""Names of hosts, host files, ports and whether hosts answer."""

from __future__ import annotations

import socket
import time

import pytest

from facetrain.distributed import hosts
from facetrain.distributed.hosts import Host
from facetrain.errors import InputError


@pytest.fixture
def listening():
    """A port of this host that somebody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_hosts_are_read():
    assert hosts.parse_hosts(["a:2", "10.0.0.1:3", "[::1]:4", "b"], "slots", default=1) == [
        Host("a", 2),
        Host("10.0.0.1", 3),
        Host("[::1]", 4),
        Host("b", 1),
    ]
    assert hosts.parse_hosts(["[fe80::1]"], "slots", default=2) == [Host("[fe80::1]", 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "host:port, received 'a'"),
        ("a:x", "host:port, received 'a:x'"),
        (":1", "host:port, received ':1'"),
        ("-oProxyCommand=x:22", "host:port, received '-oProxyCommand=x:22'"),
        ("a b:22", "host:port"),
        ("a;b:22", "host:port"),
        ("a:0", "port of host 'a' must be in 1..65535, received 0"),
        ("a:65536", "received 65536"),
    ],
)
def test_what_is_no_host(text, message):
    with pytest.raises(InputError, match=message):
        hosts.parse_hosts([text], "port")


def test_host_files(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# of today\na slots=4\n\n b:2  # half of it\nc\n")
    assert hosts.read_hostfile(path) == ["a:4", "b:2", "c:1"]
    path.write_text("a slots=4\nb slot 4\n")
    with pytest.raises(InputError, match="line 2: expected 'host slots=N', received 'b slot 4'"):
        hosts.read_hostfile(path)
    path.write_text("# nobody\n")
    with pytest.raises(InputError, match="found none"):
        hosts.read_hostfile(path)
    with pytest.raises(InputError, match="cannot be read"):
        hosts.read_hostfile(tmp_path / "none")


def test_this_host_is_known_by_its_addresses():
    assert hosts.is_here("localhost") and hosts.is_here("127.0.0.1")
    assert not hosts.is_here("192.0.2.1"), "an address kept for documentation"
    assert not hosts.is_here("no-such-host.invalid")
    hosts.check_resolvable(["localhost", "127.0.0.1"])


def test_an_unknown_host_is_named_after_the_time_it_has():
    begin = time.monotonic()
    with pytest.raises(InputError, match="host 'no-such-host.invalid' is unknown: "):
        hosts.check_resolvable(["localhost", "no-such-host.invalid"])
    with pytest.raises(InputError, match="unknown after 0.1 s"):
        hosts.check_resolvable(["no-such-host.invalid"], wait_s=0.1)
    assert time.monotonic() - begin < 30


def test_a_host_that_appears_in_time_is_found(monkeypatch):
    answers = iter([[], ["10.0.0.1"]])
    monkeypatch.setattr(hosts, "_RETRY_S", 0.01)
    monkeypatch.setattr(hosts, "addresses_of", lambda name: next(answers))
    hosts.check_resolvable(["pod-1"], wait_s=60)


def test_ports(listening):
    free, other = hosts.free_ports(2)
    assert free != other
    hosts.check_ports_free([Host("127.0.0.1", free), Host("127.0.0.1", other)])
    with pytest.raises(InputError, match=f"port {listening} of 127.0.0.1 is in use"):
        hosts.check_ports_free([Host("127.0.0.1", free), Host("127.0.0.1", listening)])
    with pytest.raises(InputError, match="two workers"):
        hosts.check_ports_free([Host("a", 1), Host("a", 1)])


def test_ssh_of_this_host_is_not_needed_and_of_others_must_answer(listening, monkeypatch):
    hosts.check_ssh(["localhost"], port=1)
    monkeypatch.setattr(hosts, "is_here", lambda name: False)
    hosts.check_ssh(["127.0.0.1"], port=listening)
    (closed,) = hosts.free_ports(1)
    with pytest.raises(InputError, match=f"'127.0.0.1' cannot be reached by ssh on port {closed} .*refused"):
        hosts.check_ssh(["127.0.0.1"], port=closed)


def test_a_host_that_says_nothing_is_given_up(monkeypatch):
    def silent(address, timeout):
        raise socket.timeout("timed out")

    monkeypatch.setattr(hosts, "is_here", lambda name: False)
    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(InputError, match="by ssh on port 22 .timed out"):
        hosts.check_ssh(["192.0.2.1"])

"""Two hosts on one machine: network namespaces with addresses of their own, and a cable between them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Host(NamedTuple):
    """A namespace.

    Attributes:
        name: of the namespace.
        address: at which the other one knows it.
    """

    name: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What a command line begins with to run there."""
        return ["ip", "netns", "exec", self.name]


def reason_to_skip() -> str | None:
    """Returns why there can be no namespaces here, or None."""
    if shutil.which("ip") is None:
        return "needs the program ip: apt-get install iproute2"
    name = f"facetrain-{os.getpid()}-try"
    if _ip("netns", "add", name, check=False):
        return "needs the right to make network namespaces (root)"
    _ip("netns", "del", name)
    return None


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Yields two hosts that reach each other and nothing else; removes them in the end."""
    hosts = tuple(Host(f"facetrain-{os.getpid()}-{n}", f"10.77.0.{n}") for n in (1, 2))
    made = []
    try:
        for host in hosts:
            made.append(host)
            # Laid over /etc/hosts there: a host must know itself by the address at which others reach it.
            names = Path("/etc/netns") / host.name / "hosts"
            names.parent.mkdir(parents=True)
            names.write_text(f"127.0.0.1 localhost\n{host.address} {socket.gethostname()}\n")
            _ip("netns", "add", host.name)
        _ip(
            "-n", hosts[0].name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", hosts[1].name
        )
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", host.name, "link", "set", device, "up")
        yield hosts
    finally:
        for host in made:
            _ip("netns", "del", host.name, check=False)
            shutil.rmtree(Path("/etc/netns") / host.name, ignore_errors=True)


def cut_cable(host: Host) -> None:
    """Ends all traffic between the hosts; connections stay open, as when a switch fails."""
    _ip("-n", host.name, "link", "set", "cable", "down")


def _ip(*arguments: str, check: bool = True) -> int:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.returncode

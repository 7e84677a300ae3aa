"""Names of hosts, which of them is this one, and whether they answer. Imports no TensorFlow."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike

CONNECT_TIMEOUT_S = 5.0
_RETRY_S = 1.0
# Never a leading '-', which ssh would take for an option.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]")
_HOSTFILE_LINE = re.compile(r"(?P<name>\S+?)(?:\s+slots\s*=\s*(?P<slots>\d+)|:(?P<colon>\d+))?\s*$")


class Host(NamedTuple):
    """A host, and its number of processes (Horovod) or its port (multi-worker)."""

    name: str
    number: int


def parse_hosts(texts: Iterable[str], what: str, default: int | None = None, highest: int = 65535) -> list[Host]:
    """Returns what ``"a:2"`` or ``"[::1]:2"`` say.

    Args:
        texts: one for each host.
        what: word for the number, as in an error: ``"port"``.
        default: number where none is given; None refuses that.
        highest: largest number.
    Raises:
        InputError: for a name or a number that cannot be.
    """
    return [_parse_host(text, what, default, highest) for text in texts]


def _parse_host(text: str, what: str, default: int | None, highest: int) -> Host:
    name, colon, number = (text, "", "") if text.endswith("]") else text.rpartition(":")
    if not colon:
        name = text
    if not _NAME.fullmatch(name) or (colon and not number.isdigit()) or (not colon and default is None):
        raise InputError(f"a host must be host:{what}, received {text!r}")
    value = int(number) if colon else int(default or 0)
    if not 1 <= value <= highest:
        raise InputError(f"the {what} of host {name!r} must be in 1..{highest}, received {value}")
    return Host(name, value)


def read_hostfile(path: PathLike) -> list[str]:
    """Returns ``"host:slots"`` for each line ``host slots=N`` (or ``host:N``, or ``host`` alone) of a host file.

    Raises:
        InputError: if it cannot be read, is empty, or has another line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the host file cannot be read ({error}); give the right path") from error
    found = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        match = _HOSTFILE_LINE.match(text)
        if text and match is None:
            raise InputError(f"{path}, line {number}: expected 'host slots=N', received {text[:80]!r}")
        if text and match is not None:
            found.append(f"{match['name']}:{match['slots'] or match['colon'] or 1}")
    if not found:
        raise InputError(f"{path}: expected a host in each line, found none")
    return found


def discover_hosts(script: str, timeout_s: float = 30.0) -> list[str]:
    """Returns the ``"host:slots"`` lines that a host discovery script prints.

    Raises:
        InputError: if it cannot be run, fails, or takes too long.
    """
    try:
        done = subprocess.run([script], capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"--host-discovery-script: {script!r} cannot be run ({error}); correct it") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        raise InputError(f"--host-discovery-script: {script!r} ended with {done.returncode} ({said}); correct it")
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def check_interface(name: str | None) -> None:
    """Refuses the name of a network interface that this host does not have."""
    known = [known for _, known in socket.if_nameindex()]
    if name is not None and name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"--network-interface: this host has {', '.join(known)}, received {name!r}{hint}")


def addresses_of(name: str) -> list[str]:
    """Returns the addresses of a host; none if its name is unknown."""
    try:
        found = socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_here(name: str) -> bool:
    """Tells whether a host is this one: whether an address of its can be listened on."""
    return any(_why_not_listen(address, 0) is None for address in addresses_of(name))


def _why_not_listen(address: str, port: int) -> int | None:
    """Returns the number of the error with which this process cannot listen there; None: it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            # As a server does it, or one that has just ended would seem to hold its port.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, port))
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return None


def free_ports(count: int) -> list[int]:
    """Returns so many ports that nobody listens on, from those that the system gives away."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def check_resolvable(names: Sequence[str], wait_s: float = 0.0) -> None:
    """Refuses host names without an address.

    Args:
        names: of hosts.
        wait_s: how long a name may take to become known, as those of containers that are being started.
    """
    until = time.monotonic() + wait_s
    for name in dict.fromkeys(names):
        while not addresses_of(name):
            if time.monotonic() >= until:
                waited = f" after {wait_s:g} s" if wait_s else ""
                raise InputError(f"host {name!r} is unknown{waited}: no address is found for it; correct --hosts")
            time.sleep(_RETRY_S)


def check_ports_free(addresses: Iterable[Host]) -> None:
    """Refuses a port of this host that another process listens on, and an address given twice."""
    seen: set[Host] = set()
    for host in addresses:
        if host in seen:
            raise InputError(f"{host.name}:{host.number} is given to two workers: give each its own port")
        seen.add(host)
        if not is_here(host.name):
            continue
        # TensorFlow's servers listen on all addresses, so none may be taken.
        why = {_why_not_listen(address, host.number) for address in (*addresses_of(host.name), "0.0.0.0")}
        if why & {errno.EADDRINUSE, errno.EACCES}:
            raise InputError(
                f"port {host.number} of {host.name} is in use by another process (or reserved): take another port"
            )


def check_ssh(names: Iterable[str], port: int = 22, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Refuses other hosts whose ssh port does not answer."""
    for name in dict.fromkeys(names):
        if is_here(name):
            continue
        try:
            socket.create_connection((name.strip("[]"), port), timeout_s).close()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error) or "no answer"
            raise InputError(
                f"host {name!r} cannot be reached by ssh on port {port} ({reason}): start its ssh server, give "
                "--ssh-port, or leave the host out"
            ) from error

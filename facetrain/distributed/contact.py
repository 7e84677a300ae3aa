"""How the processes of a training find each other to watch each other, and what they say when one is gone."""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from facetrain.distributed.exchange import gather_texts
from facetrain.distributed.outcome import describe_loss
from facetrain.distributed.runtime import Runtime
from facetrain.distributed.watch import PeerWatch, Verdict
from facetrain.errors import InputError

EXIT_LOST = 1
_MEETING_S, _VERDICT_S, _WRITING_S = 20.0, 6.0, 20.0
_TOKEN_BYTES, _RANK_BYTES = 16, 4
logger = logging.getLogger(__name__)


@contextmanager
def watching(runtime: Runtime, limit_s: float, advice: Callable[[], str]) -> Iterator[None]:
    """Inside, a process that loses another one says so in one sentence and ends itself, with exit code 1.

    All ranks must enter and leave it together. What is being written under ``runtime.writing`` is completed before.
    Under Horovod, whose ranks share a terminal, the chief speaks, and one rank of each host where the chief is gone.

    Args:
        runtime: of this process.
        limit_s: seconds without a sign of life after which a process is lost.
        advice: returns how to go on, the end of the sentence.
    """
    table, links = meet(runtime) if runtime.world > 1 else ([], {})
    if not links:
        yield
        return

    def speak(verdict: Verdict) -> None:
        if _speaks(runtime, table, verdict):
            peer = table[verdict.rank]
            line = describe_loss(verdict.rank, runtime.world, peer["pid"], peer["host"], verdict.reason, advice())
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def end() -> None:
        runtime.writing.acquire(timeout=_WRITING_S)
        # The main thread may wait for a rank that is gone, which nothing else can end.
        os._exit(EXIT_LOST)

    watch = PeerWatch(links, limit_s, speak, end)
    completed = False
    try:
        yield
        completed = True
    finally:
        error = sys.exc_info()[1]
        if not completed and not isinstance(error, (InputError, KeyboardInterrupt)):
            watch.settle(_VERDICT_S)  # an exchange that failed is what a lost rank leaves behind
        watch.leave(failed=not completed and not isinstance(error, KeyboardInterrupt))


def meet(runtime: Runtime) -> tuple[list[dict[str, Any]], dict[int, socket.socket]]:
    """Connects the chief with every other rank; all must call it at once.

    Returns:
        what each rank says of itself (``host`` and ``pid``), and sockets by rank: of the chief one for each other rank,
        of the others one for rank 0; none if they cannot reach each other.
    """
    server, token = None, secrets.token_bytes(_TOKEN_BYTES)
    own: dict[str, Any] = {"host": socket.gethostname()[:100], "pid": os.getpid()}
    if runtime.is_chief:
        address = chief_address(runtime.kind)
        server = _listen(address)
        own.update(address=address, port=server.getsockname()[1], token=token.hex())
    table = [json.loads(text) for text in gather_texts(runtime.communicator, json.dumps(own))]
    if server is not None:
        with server:
            links = _accept(server, token, runtime.world)
    else:
        links = _connect(table[0], runtime.rank)
    complete = len(links) == (runtime.world - 1 if runtime.is_chief else 1)
    if runtime.all_mean({"met": float(complete)})["met"] == 1:
        return table, links
    for link in links.values():
        link.close()
    if runtime.is_chief:
        logger.warning(
            "not every process could reach %s, port %d: one that dies or hangs will be noticed late",
            table[0]["address"],
            table[0]["port"],
        )
    return table, {}


def chief_address(kind: str) -> str:
    """Returns the address of this host, the chief's, at which the others know it."""
    if kind == "multiworker":
        return json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][0].rpartition(":")[0].strip("[]")
    launcher = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
    if not launcher:
        return socket.gethostname()
    with socket.socket(socket.AF_INET6 if ":" in launcher else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((launcher, 1))  # sends nothing; tells which of the own addresses lies in that direction
        return probe.getsockname()[0]


def _speaks(runtime: Runtime, table: list[dict[str, Any]], verdict: Verdict) -> bool:
    if runtime.kind == "multiworker":
        return True  # each has its own terminal or log
    here = [rank for rank, peer in enumerate(table) if peer["host"] == table[runtime.rank]["host"]]
    first = min(rank for rank in here if rank != verdict.rank)
    return not verdict.told and (runtime.is_chief or runtime.rank == first)


def _listen(address: str) -> socket.socket:
    try:
        family, _, _, _, target = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(target[:2], family=family, backlog=1024)
    except OSError:  # a name that stands for this host without being an address of it
        return socket.create_server(("", 0), backlog=1024)


def _accept(server: socket.socket, token: bytes, world: int) -> dict[int, socket.socket]:
    links: dict[int, socket.socket] = {}
    limit = time.monotonic() + _MEETING_S
    while len(links) < world - 1 and time.monotonic() < limit:
        server.settimeout(max(limit - time.monotonic(), 0.01))
        try:
            link, _ = server.accept()
        except OSError:
            break
        link.settimeout(2.0)
        try:
            hello = link.recv(_TOKEN_BYTES + _RANK_BYTES, socket.MSG_WAITALL)
        except OSError:
            hello = b""
        rank = int.from_bytes(hello[_TOKEN_BYTES:], "big")
        if hmac.compare_digest(hello[:_TOKEN_BYTES], token) and 0 < rank < world and rank not in links:
            links[rank] = link
        else:
            link.close()
    return links


def _connect(chief: dict[str, Any], rank: int) -> dict[int, socket.socket]:
    with suppress(OSError):
        link = socket.create_connection((chief["address"], chief["port"]), timeout=_MEETING_S / 2)
        link.sendall(bytes.fromhex(chief["token"]) + rank.to_bytes(_RANK_BYTES, "big"))
        return {0: link}
    return {}

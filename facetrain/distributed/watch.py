"""Signs of life among the processes of a training, by which those that are left learn who is gone. No TensorFlow."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

_BEAT_S, _LAST_WORDS_S, _FAREWELL_S = 1.0, 10.0, 2.0
_BEAT, _BYE, _FAILED, _LOST = ".", "bye", "failed", "lost"
_LINE_LIMIT = 1000  # bytes; nobody who belongs here sends longer ones

ENDED = "its process ended without a word"
FAILED = "it failed, and says why itself"


class Verdict(NamedTuple):
    """Which rank is gone.

    Attributes:
        rank: its number.
        reason: what was seen of it, for a sentence.
        told: whether it is already said elsewhere, by that rank or by the chief.
    """

    rank: int
    reason: str
    told: bool


class PeerWatch:
    """Watches the processes at the other ends of some connections, in a thread, and lets them know of this one.

    The chief is connected with all others, and they with the chief, who passes on whom it lost. A process whose
    connection ends without a farewell is lost, and so is one that is stopped, hangs or is cut off: it falls silent.

    Args:
        links: connected sockets by rank; those of the chief have no rank 0.
        limit_s: seconds of silence after which a process is lost.
        on_loss: called once, in the thread, as soon as one is lost; the chief has then told nobody yet.
        end: called after that, when the others know.
    """

    def __init__(
        self,
        links: Mapping[int, socket.socket],
        limit_s: float,
        on_loss: Callable[[Verdict], None],
        end: Callable[[], None],
    ):
        self._links, self._limit_s = dict(links), limit_s
        self._on_loss, self._end = on_loss, end
        self._is_chief = 0 not in links
        self._seen = dict.fromkeys(links, time.monotonic())
        self._unread = dict.fromkeys(links, b"")
        self._failing: dict[int, float] = {}
        self._ended: set[int] = set()
        self._passed_on: Verdict | None = None
        self._leaving = False
        self._decided = threading.Event()
        self._selector = selectors.DefaultSelector()
        for rank, link in self._links.items():
            link.setblocking(False)
            self._selector.register(link, selectors.EVENT_READ, rank)
        self._thread = threading.Thread(target=self._run, name="peer-watch", daemon=True)
        self._thread.start()

    def leave(self, failed: bool = False) -> None:
        """Stops watching, and tells the others that this process will end and why.

        Args:
            failed: this process ends by an error that it says itself; the others then wait for its end and end too.
        """
        if not self._decided.is_set():
            # The thread goes on reading: a connection closed with something unread may lose what was sent last.
            self._leaving = True
            self._tell(_FAILED if failed else _BYE)

    def settle(self, seconds: float) -> None:
        """Waits for a verdict, if one comes within ``seconds``, and then for ``end``."""
        if self._decided.wait(seconds):
            self._thread.join()

    def _run(self) -> None:
        next_beat, before = 0.0, time.monotonic()
        while self._links:
            if time.monotonic() >= next_beat:
                if not self._leaving:
                    self._tell(_BEAT)
                next_beat = time.monotonic() + _BEAT_S
            # Read before judging: a process that was itself stopped for long finds everything here at once.
            self._read_all(_BEAT_S / 4)
            before = self._forgive_own_pause(before)
            verdict = None if self._leaving else self._judge()
            if verdict is not None:
                self._decide(verdict)
                return
            for rank in [rank for rank in self._links if self._leaving and rank in self._ended]:
                self._drop(rank)

    def _forgive_own_pause(self, before: float) -> float:
        """Lets time pass for nobody while this process was stopped: the others may have been stopped with it.

        Args:
            before: when it was called before.
        Returns:
            now.
        """
        now = time.monotonic()
        if now - before > 2 * _BEAT_S:
            self._seen = {rank: min(seen + now - before, now) for rank, seen in self._seen.items()}
        return now

    def _read_all(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            self._read(key.data)

    def _read(self, rank: int) -> None:
        try:
            data = self._links[rank].recv(4096)
        except BlockingIOError:
            return
        except OSError:  # reset, or cut off for long
            data = b""
        if not data:
            self._ended.add(rank)
            return
        self._seen[rank] = time.monotonic()
        *lines, rest = (self._unread[rank] + data).split(b"\n")
        self._unread[rank] = rest[:_LINE_LIMIT]
        for line in lines:
            self._take(rank, line.decode("ascii", "replace"))

    def _take(self, rank: int, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == _BYE and rank in self._links:
            self._drop(rank)
        elif word == _FAILED:
            self._failing.setdefault(rank, time.monotonic())
        elif word == _LOST:
            lost, _, reason = rest.partition(" ")
            self._passed_on = Verdict(int(lost) if lost.isdigit() else rank, reason, told=True)

    def _judge(self) -> Verdict | None:
        if self._passed_on is not None:
            return self._passed_on
        now = time.monotonic()
        for rank in self._links:
            if rank in self._failing:
                if rank in self._ended or now - self._failing[rank] > _LAST_WORDS_S:
                    return Verdict(rank, FAILED, told=True)
            elif rank in self._ended:
                return Verdict(rank, ENDED, told=False)
            elif now - self._seen[rank] > self._limit_s:
                return Verdict(rank, silence(self._limit_s), told=False)
        return None

    def _decide(self, verdict: Verdict) -> None:
        self._decided.set()
        self._on_loss(verdict)
        if self._is_chief:
            self._tell(f"{_LOST} {verdict.rank} {verdict.reason}")
            self._wait_for_ends()
        self._end()

    def _wait_for_ends(self) -> None:
        limit = time.monotonic() + _FAREWELL_S
        while set(self._links) - self._ended and time.monotonic() < limit:
            self._read_all(_BEAT_S / 4)
            for rank in self._ended & set(self._links):
                self._drop(rank)

    def _drop(self, rank: int) -> None:
        link = self._links.pop(rank)
        self._selector.unregister(link)
        if rank in self._ended:
            link.close()

    def _tell(self, line: str) -> None:
        for link in list(self._links.values()):
            try:
                link.send(f"{line}\n".encode("ascii"))
            except OSError:
                continue  # reading will find out


def silence(limit_s: float) -> str:
    """Returns what to say of a process that was silent for ``limit_s`` seconds."""
    return f"it gave no sign of life for {limit_s:g} s (stopped, hung, or cut off from the network)"

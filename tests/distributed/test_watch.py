"""Signs of life over real sockets: who is lost, who has only left, and who is told."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from facetrain.distributed import contact, watch
from facetrain.distributed.watch import ENDED, FAILED, PeerWatch, Verdict, silence

LIMIT_S, PATIENCE_S = 0.6, 10.0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "_BEAT_S", 0.05)
    monkeypatch.setattr(watch, "_LAST_WORDS_S", 0.5)
    monkeypatch.setattr(watch, "_FAREWELL_S", 0.3)


class Rank:
    """A rank whose verdict and end are noted."""

    def __init__(self, links, limit_s=LIMIT_S):
        self.verdicts, self.ended = [], threading.Event()
        self.links = links
        self.watch = PeerWatch(links, limit_s, self.verdicts.append, self.end)

    def end(self):
        for link in self.links.values():
            link.close()
        self.ended.set()

    def verdict(self):
        assert self.ended.wait(PATIENCE_S)
        (verdict,) = self.verdicts
        return verdict


@pytest.fixture
def pairs():
    """Connections of a chief with ranks 1 and 2: the ends of the chief, and theirs."""
    made = {rank: socket.socketpair() for rank in (1, 2)}
    yield {rank: pair[0] for rank, pair in made.items()}, {rank: pair[1] for rank, pair in made.items()}
    for pair in made.values():
        for one in pair:
            one.close()


def test_an_end_without_a_word_is_noticed_and_passed_on(pairs):
    own, theirs = pairs
    chief, second = Rank(own, limit_s=60), Rank({0: theirs[2]}, limit_s=60)
    theirs[1].close()
    assert chief.verdict() == Verdict(1, ENDED, told=False)
    assert second.verdict() == Verdict(1, ENDED, told=True)


def test_the_chiefs_own_end_is_noticed_by_all(pairs):
    own, theirs = pairs
    ranks = [Rank({0: theirs[rank]}, limit_s=60) for rank in (1, 2)]
    for link in own.values():
        link.close()
    assert [rank.verdict() for rank in ranks] == [Verdict(0, ENDED, told=False)] * 2


def test_silence_is_noticed_after_the_limit_and_not_before(pairs):
    own, theirs = pairs
    chief, second = Rank(own), Rank({0: theirs[2]})
    start = time.monotonic()
    while time.monotonic() - start < 2 * LIMIT_S:  # rank 1 gives signs of life of its own
        theirs[1].send(b".\n")
        time.sleep(0.02)
    assert not chief.verdicts and not second.verdicts
    start = time.monotonic()
    assert chief.verdict() == Verdict(1, silence(LIMIT_S), told=False)
    assert LIMIT_S - 0.1 <= time.monotonic() - start
    assert second.verdict() == Verdict(1, silence(LIMIT_S), told=True)


def test_time_in_which_all_were_stopped_is_nobodys_silence(pairs, monkeypatch):
    """As when a machine or a whole job is suspended: nobody is lost when it goes on, but who then stays silent is."""
    own, _ = pairs
    jump = [0.0]
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + jump[0]))
    chief = Rank(own, limit_s=2)
    time.sleep(0.2)
    jump[0] = 100.0
    time.sleep(0.5)
    assert not chief.verdicts
    assert chief.verdict().reason == silence(2)


def test_who_says_goodbye_is_not_lost(pairs):
    own, theirs = pairs
    chief, second = Rank(own), Rank({0: theirs[2]})
    theirs[1].send(b"bye\n")
    theirs[1].close()
    time.sleep(2 * LIMIT_S)
    second.watch.leave()
    time.sleep(2 * LIMIT_S)
    chief.watch.leave()
    assert not chief.verdicts and not second.verdicts and not chief.ended.is_set()


def test_who_fails_may_finish_its_sentence(pairs):
    """Others end only when the failing process has, or after a while; they say nothing themselves."""
    own, theirs = pairs
    chief, second = Rank(own, limit_s=60), Rank({0: theirs[2]}, limit_s=60)
    second.watch.leave(failed=True)
    time.sleep(0.2)
    assert not chief.verdicts
    theirs[2].close()
    assert chief.verdict() == Verdict(2, FAILED, told=True)


def test_a_failing_process_that_does_not_end_is_not_waited_for(pairs):
    own, theirs = pairs
    chief = Rank(own, limit_s=60)
    theirs[1].send(b"failed\n")
    assert chief.verdict() == Verdict(1, FAILED, told=True)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_may_come_in_pieces(pairs, size):
    _, theirs = pairs
    ours, chiefs = socket.socketpair()
    with ours, chiefs:
        rank = Rank({0: ours}, limit_s=60)
        message = b".\n.\nlost 7 it was tired\n"
        for start in range(0, len(message), size):
            chiefs.send(message[start : start + size])
            time.sleep(0.01)
        assert rank.verdict() == Verdict(7, "it was tired", told=True)


def test_nonsense_is_no_message_and_is_not_kept(pairs):
    own, theirs = pairs
    chief = Rank(own, limit_s=60)
    for _ in range(20):
        theirs[1].send(b"\xff" * 1000)
    theirs[1].send(b"\nnonsense\n")
    time.sleep(0.3)
    assert not chief.verdicts and max(len(unread) for unread in chief.watch._unread.values()) <= watch._LINE_LIMIT


def test_settling_waits_for_a_verdict_and_its_end(pairs):
    own, theirs = pairs
    chief = Rank(own, limit_s=60)
    start = time.monotonic()
    chief.watch.settle(0.1)
    assert time.monotonic() - start < 5 and not chief.ended.is_set()
    theirs[1].close()
    chief.watch.settle(PATIENCE_S)
    assert chief.ended.is_set()


class ThreadRuntime:
    """Of a rank that is a thread."""

    kind = "horovod"

    def __init__(self, rank, world, table, barrier):
        self.rank, self.world, self._table, self._barrier = rank, world, table, barrier
        self.is_chief, self.communicator = rank == 0, self

    def gather(self, array):
        self._table[self.rank] = array
        self._barrier.wait(30)
        found = np.concatenate(list(self._table))
        self._barrier.wait(30)
        return found

    def all_mean(self, metrics):
        rows = self.gather(np.array([list(metrics.values())]))
        return dict(zip(metrics, rows.mean(axis=0).tolist()))


def meet(world):
    """Returns what ``contact.meet`` returns on each of ``world`` ranks."""
    table, barrier, found = [None] * world, threading.Barrier(world), {}

    def one(rank):
        found[rank] = contact.meet(ThreadRuntime(rank, world, table, barrier))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[rank] for rank in range(world)]


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr(contact, "chief_address", lambda kind: "127.0.0.1")


def close(found):
    for _, links in found:
        for link in links.values():
            link.close()


def test_the_chief_meets_everybody(local):
    found = meet(3)
    assert [sorted(links) for _, links in found] == [[1, 2], [0], [0]]
    assert all([peer["host"] for peer in table] == [socket.gethostname()[:100]] * 3 for table, _ in found)
    for rank in (1, 2):
        found[rank][1][0].sendall(bytes([rank]))
        assert found[0][1][rank].recv(1) == bytes([rank])
    close(found)


def test_strangers_are_not_let_in(local, monkeypatch):
    """One that does not know the token, and one that calls itself a rank that is there."""
    connect = contact._connect

    def with_strangers(chief, rank):
        if rank == 1:
            for hello in (b"x" * 16 + b"\0\0\0\2", bytes.fromhex(chief["token"]) + b"\0\0\0\0"):
                with socket.create_connection((chief["address"], chief["port"])) as stranger:
                    stranger.sendall(hello)
                    stranger.settimeout(10)
                    assert stranger.recv(1) == b""
        return connect(chief, rank)

    monkeypatch.setattr(contact, "_connect", with_strangers)
    found = meet(3)
    assert [sorted(links) for _, links in found] == [[1, 2], [0], [0]]
    close(found)


def test_ranks_that_cannot_reach_the_chief_train_unwatched(local, monkeypatch, caplog):
    monkeypatch.setattr(contact, "_MEETING_S", 0.5)
    connect = contact._connect
    monkeypatch.setattr(contact, "_connect", lambda chief, rank: connect(chief, rank) if rank == 1 else {})
    assert [links for _, links in meet(3)] == [{}, {}, {}]
    assert "could reach 127.0.0.1" in caplog.text


def test_the_address_of_a_chief(monkeypatch):
    config = '{"cluster": {"worker": ["[fd00::1]:2222", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    monkeypatch.setenv("TF_CONFIG", config)
    assert contact.chief_address("multiworker") == "fd00::1"
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "127.0.0.1")
    assert contact.chief_address("horovod") == "127.0.0.1"


@pytest.mark.parametrize(
    ("kind", "rank", "verdict", "expected"),
    [
        ("horovod", 0, Verdict(2, ENDED, told=False), True),
        ("horovod", 1, Verdict(2, ENDED, told=True), False),
        ("horovod", 1, Verdict(0, ENDED, told=False), True),  # the chief is gone: one rank of each host
        ("horovod", 2, Verdict(0, ENDED, told=False), True),
        ("horovod", 3, Verdict(0, ENDED, told=False), False),
        ("horovod", 0, Verdict(2, FAILED, told=True), False),
        ("multiworker", 3, Verdict(2, ENDED, told=True), True),
    ],
)
def test_who_speaks(kind, rank, verdict, expected):
    runtime = ThreadRuntime(rank, 4, None, None)
    runtime.kind = kind
    table = [{"host": host} for host in "aabb"]
    assert contact._speaks(runtime, table, verdict) is expected

"""``benchmarks/distributed.py``: its simulation, its turns and the processes that it tells what to do."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

import pytest

from facetrain.distributed.costs import HeadPlan, Network
from facetrain.images import read_image
from tests.scripts import load_script

NETWORK = Network(weights=170_000_000, trainable=170_000_000, activations=3 * 10**9, backward=3 * 10**9)


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/distributed.py")


@pytest.fixture(scope="module")
def paper(benchmark):
    return benchmark.simulation


def test_fitted_rows_come_out_as_published(paper):
    simulation = paper.Simulation.fitted(NETWORK, paper.Gpu())
    for number in paper.FITTED:
        identities, head, rate, _ = paper.PUBLISHED[number]
        assert simulation.row(head, identities, 8)["samples_per_second"] == pytest.approx(rate)
    assert 0 < simulation.of_network < 8 * paper.BATCH / 5004
    assert 0 < simulation.share < 1


def test_a_row_by_hand(paper):
    gpu = paper.Gpu()
    row = paper.Simulation(NETWORK, gpu, 0.2, 0.5).row(HeadPlan("sharded"), 8_000_000, 8)
    # A million classes on each: 1024 x 1e6 x 512 products forward and twice that back, at half of 15.7 Tflop/s.
    flop = 2 * 3 * 1024 * 10**6 * 512
    assert row["head_gflop"] == flop / 1e9
    # Six passes over the cosines, ten over the centres.
    touched = 4 * (6 * 1024 * 10**6 + 10 * 10**6 * 512)
    joined, numbers = 4 * 1024 * 512, 4 * 1024
    sent = 7 / 8 * (2 * (170_000_000 + joined + 7 * numbers) + joined + 3 * numbers)
    seconds = 0.2 + flop / (0.5 * gpu.peak) + touched / gpu.memory_rate + sent / gpu.inside_host
    assert row["samples_per_second"] == pytest.approx(1024 / seconds)
    # Centres and momentum are 4.1 GB; two matrices of cosines and three of centres.
    taken = 2 * 4 * 10**6 * 512 + 2 * 4 * 1024 * 10**6 + 3 * 4 * 10**6 * 512 + 4 * joined + 3.34e9
    assert row["gb"] == pytest.approx(taken / 1e9) and row["fits"]


def test_hosts_are_joined_by_a_slower_wire(paper):
    simulation = paper.Simulation(NETWORK, paper.Gpu(), 0.2, 0.25)
    near, far = (simulation.row(HeadPlan("cosine"), 10**6, gpus) for gpus in (8, 16))
    seconds = [row["gpus"] * paper.BATCH / row["samples_per_second"] for row in (near, far)]
    # 2 GB of gradients: 3.9 GB at 50 GB/s, 4.2 GB at 100 Gbit/s; all else is as before.
    assert seconds[1] - seconds[0] == pytest.approx(far["sent_mb"] / 12_500 - near["sent_mb"] / 50_000)
    assert far["sent_mb"] / 12_500 == pytest.approx(0.33, abs=0.01)


def test_it_is_drawn_and_shown(benchmark, paper, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "network_of", lambda *arguments: (NETWORK, 0))
    monkeypatch.setattr(
        "sys.argv", ["distributed.py", "--part", "simulation", "--out", str(tmp_path / "new" / "s.png")]
    )
    benchmark.main()
    assert min(read_image(tmp_path / "new" / "s.png").shape[:2]) > 300
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "== simulation"
    published = [line.split() for line in lines if line.startswith("published ")]
    assert [row[3] for row in published] == [str(identities) for identities, *_ in paper.PUBLISHED]
    simulated = [line for line in lines if line.startswith("simulated ")]
    assert len(simulated) == len(paper.GPUS) * len(paper.IDENTITIES) * len(paper.HEADS)


class Told:
    """Processes that only note what they are told."""

    def __init__(self, count, seconds):
        self.count, self.seconds, self.heard = count, seconds, []

    def ask(self, steps, members=slice(None)):
        places = list(range(self.count))[members]
        self.heard.append((steps, places))
        return [{"seconds": self.seconds[place], "processor": 1.5} for place in places]


def test_rows_take_turns_forth_and_back(benchmark):
    apart, ranks = Told(2, [2.0, 4.0]), Told(2, [5.0, 5.0])
    rows = [
        benchmark.Row("alone", apart, 10, one_of_them=True),
        benchmark.Row("apart", apart, 10),
        benchmark.Row("ranks", ranks, 10),
    ]
    found = benchmark.in_turns(rows, argparse.Namespace(turns=2, steps=3))
    # 30 images in 2 s by one process and in 4 s by the other: 15 and 7.5 a second.
    assert [turn.rate for turn in found["alone"]] == [15.0, 7.5]
    assert [turn.busy for turn in found["alone"]] == [0.75, 0.375]
    assert found["apart"] == [(22.5, 0.5)] * 2 and found["ranks"] == [(12.0, 0.3)] * 2
    assert apart.heard == [(3, [0]), (3, [0, 1]), (3, [0, 1]), (3, [1])], "the second turn goes back"
    line = benchmark.against("ranks", found["ranks"], found["alone"])
    assert line.pop("what") == "ranks"
    assert line == pytest.approx({"images_per_second": 12.0, "ratio": 1.2, "lowest": 0.8, "highest": 1.6, "busy": 0.3})


@pytest.fixture
def child(benchmark, tmp_path, monkeypatch):
    """Lets groups start a program that trains nothing: it says which process it is, and how many steps it was told."""
    program = tmp_path / "distributed_child.py"
    program.write_text(
        "import json, os, socket, sys\n"
        "job = json.loads(sys.argv[1])\n"
        "if job.get('fails'): sys.exit('no such thing')\n"
        "with socket.socket(socket.AF_UNIX) as s:\n"
        "    s.connect(sys.argv[2])\n"
        "    lines = s.makefile('rw')\n"
        "    print(json.dumps({'place': job['first'], 'process': os.getpid()}), file=lines, flush=True)\n"
        "    while steps := int(lines.readline() or 0):\n"
        "        if steps == 13: sys.exit('out of luck')\n"
        "        print(json.dumps({'place': job['first'], 'steps': steps}), file=lines, flush=True)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(benchmark, "HERE", tmp_path)
    return program


def state(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] if stat.exists() else None


@pytest.mark.integration
def test_processes_do_what_they_are_told(benchmark, child):
    with benchmark.Group("single", 2, {"processors": 1}) as group:
        group.wait()
        assert group.ask(5) == [{"place": 0, "steps": 5}, {"place": 1, "steps": 5}]
        assert group.ask(2, slice(1, 2)) == [{"place": 1, "steps": 2}]
        processes = [process.pid for process in group.running]
    assert [process.returncode for process in group.running] == [0, 0]
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


@pytest.mark.integration
def test_ranks_are_stopped_between_their_turns(benchmark, child):
    with benchmark.Group("single", 1, {"processors": 1}) as group:
        group.stops = True
        (member,) = group.wait().members
        deadline = time.monotonic() + 10
        while state(member.process) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(member.process) == "T"
        assert group.ask(1) == [{"place": 0, "steps": 1}]
        os.kill(member.process, signal.SIGCONT)
    assert group.running[0].returncode == 0


@pytest.mark.integration
@pytest.mark.parametrize("job, told, words", [({"fails": True}, 1, "no such thing"), ({}, 13, "out of luck")])
def test_what_a_process_says_at_its_end_is_shown(benchmark, child, job, told, words):
    with benchmark.Group("single", 1, {"processors": 1, **job}) as group, pytest.raises(SystemExit, match=words):
        group.stops = True
        group.wait().ask(told)
    assert group.running[0].returncode == 1

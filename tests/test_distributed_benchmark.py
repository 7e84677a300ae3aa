"""The simulation of ``benchmarks/distributed.py``, which needs neither TensorFlow nor quiet processors."""

from __future__ import annotations

import pytest

from facetrain.distributed.costs import HeadPlan, Network
from facetrain.images import read_image
from tests.scripts import load_script

NETWORK = Network(weights=170_000_000, trainable=170_000_000, activations=3 * 10**9, backward=3 * 10**9)


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/distributed.py")


def test_fitted_rows_come_out_as_published(benchmark):
    simulation = benchmark.Simulation.fitted(NETWORK, benchmark.Gpu())
    for number in benchmark.FITTED:
        identities, head, rate, _ = benchmark.PUBLISHED[number]
        assert simulation.row(head, identities, 8)["samples_per_second"] == pytest.approx(rate)
    assert 0 < simulation.of_network < 8 * benchmark.BATCH / 5004
    assert 0 < simulation.share < 1


def test_a_row_by_hand(benchmark):
    gpu = benchmark.Gpu()
    row = benchmark.Simulation(NETWORK, gpu, 0.2, 0.5).row(HeadPlan("sharded"), 8_000_000, 8)
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


def test_hosts_are_joined_by_a_slower_wire(benchmark):
    simulation = benchmark.Simulation(NETWORK, benchmark.Gpu(), 0.2, 0.25)
    near, far = (simulation.row(HeadPlan("cosine"), 10**6, gpus) for gpus in (8, 16))
    seconds = [row["gpus"] * benchmark.BATCH / row["samples_per_second"] for row in (near, far)]
    # 2 GB of gradients: 3.9 GB at 50 GB/s, 4.2 GB at 100 Gbit/s; all else is as before.
    assert seconds[1] - seconds[0] == pytest.approx(far["sent_mb"] / 12_500 - near["sent_mb"] / 50_000)
    assert far["sent_mb"] / 12_500 == pytest.approx(0.33, abs=0.01)


def test_it_is_drawn_and_shown(benchmark, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "network_of", lambda *arguments: (NETWORK, 0))
    monkeypatch.setattr(
        "sys.argv", ["distributed.py", "--part", "simulation", "--out", str(tmp_path / "new" / "s.png")]
    )
    benchmark.main()
    assert min(read_image(tmp_path / "new" / "s.png").shape[:2]) > 300
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "== simulation"
    published = [line.split() for line in lines if line.startswith("published ")]
    assert [row[3] for row in published] == [str(identities) for identities, *_ in benchmark.PUBLISHED]
    simulated = [line for line in lines if line.startswith("simulated ")]
    assert len(simulated) == len(benchmark.GPUS) * len(benchmark.IDENTITIES) * len(benchmark.HEADS)

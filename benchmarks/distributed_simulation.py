"""How far training on many devices would scale, computed from bytes, multiply-adds and rates that are stated.

    python benchmarks/distributed.py --part simulation --out docs/images/distributed_scaling.png

From what an update costs (``facetrain.distributed.costs``) it computes what hosts of eight GPUs would do; two of its
rates are fitted to two rows of a published table, and it is compared with the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from facetrain.distributed.costs import (
    HeadPlan,
    Network,
    Update,
    head_bytes_touched,
    head_multiply_adds,
    memory,
    traffic,
)


class Gpu(NamedTuple):
    """A GPU among eight of a host, and what of it a training reaches.

    Sources: peak, memory and its rate as NVIDIA publishes them for the V100-SXM2-32GB; the rates between GPUs and
    between hosts (100 Gbit/s) are assumptions, and so is that nothing is sent while something is computed.
    """

    memory: float = 32e9
    peak: float = 15.7e12  # float32 operations a second
    memory_rate: float = 0.75 * 900e9  # bytes a second, of which three quarters are reached
    inside_host: float = 50e9
    between_hosts: float = 12.5e9
    of_host: int = 8


# Samples a second and, where published, GB of a GPU on 8 of them (arcface_torch, ResNet-50, 128 images each, float16).
PUBLISHED = (
    (125_000, HeadPlan("cosine"), 4681, None),
    (125_000, HeadPlan("sharded", 0.1), 5004, None),
    (1_000_000, HeadPlan("cosine"), 2090, None),
    (1_000_000, HeadPlan("sharded", 0.1), 4803, None),
    (5_500_000, HeadPlan("sharded", 0.1), 3975, 9.9),
    (29_000_000, HeadPlan("sharded", 0.1), 1855, 32.0),
)
FITTED = (1, 5)
BATCH, EMBEDDING = 128, 512
HEADS = (HeadPlan("cosine"), HeadPlan("partial", 0.1), HeadPlan("sharded", 1.0), HeadPlan("sharded", 0.1))
GPUS = (8, 16, 32, 64, 128, 256)
IDENTITIES = (1_000_000, 5_500_000, 10_000_000, 30_000_000)


def network_of(
    backbone: Any, size: int, batch: int, embedding: int, precision: str = "float32", neck: str = "gdc"
) -> tuple[Network, int]:
    """Returns the costs of a network for a batch, and its multiply-adds for one image."""
    from facetrain.layers.flops import count_flops
    from facetrain.models import build_embedding_model
    from facetrain.models.pass_memory import pass_memory

    model = build_embedding_model(backbone, neck, embedding, (size, size, 3), precision)
    passes = pass_memory(model, batch)
    weights, trainable = (
        4 * sum(v.shape.num_elements() for v in of) for of in (model.weights, model.trainable_weights)
    )
    return Network(weights, trainable, passes.kept, passes.peak), count_flops(model)


class Simulation:
    """Seconds of an update and memory of a GPU, from bytes, multiply-adds and rates.

    Args:
        network: costs of backbone and neck for the images of one GPU.
        gpu: rates.
        of_network: seconds for the passes of backbone and neck.
        share: of the peak that products of the head reach.
    """

    def __init__(self, network: Network, gpu: Gpu, of_network: float = 0.0, share: float = 1.0):
        self.network, self.gpu, self.of_network, self.share = network, gpu, of_network, share

    @classmethod
    def fitted(cls, network: Network, gpu: Gpu) -> Simulation:
        """Finds the two rates that nobody publishes so that two rows of the table come out as they are."""
        rest, products, seconds = [], [], []
        for identities, head, rate, _ in (PUBLISHED[number] for number in FITTED):
            update = Update(identities, EMBEDDING, BATCH, 8)
            seconds.append(8 * BATCH / rate)
            products.append(2 * head_multiply_adds(head, update) / gpu.peak)
            rest.append(cls(network, gpu).seconds_beside_products(head, update))
        inverse = (seconds[1] - rest[1] - seconds[0] + rest[0]) / (products[1] - products[0])
        return cls(network, gpu, seconds[0] - rest[0] - inverse * products[0], 1 / inverse)

    def seconds_beside_products(self, head: HeadPlan, update: Update) -> float:
        """Returns the time for moving bytes, in memory and between ranks."""
        wire = self.gpu.inside_host if update.world <= self.gpu.of_host else self.gpu.between_hosts
        sent = traffic(head, update, self.network).sent(update.world)
        return head_bytes_touched(head, update) / self.gpu.memory_rate + sent / wire

    def row(self, head: HeadPlan, identities: int, gpus: int) -> dict[str, Any]:
        """Returns what an update of a head takes."""
        update = Update(identities, EMBEDDING, BATCH, gpus)
        products = 2 * head_multiply_adds(head, update) / (self.share * self.gpu.peak)
        seconds = self.of_network + products + self.seconds_beside_products(head, update)
        taken = memory(head, update, self.network).total
        return {
            "head": head.name,
            "sample_rate": head.sample_rate,
            "identities": identities,
            "gpus": gpus,
            "gb": taken / 1e9,
            "fits": taken <= self.gpu.memory,
            "sent_mb": traffic(head, update, self.network).sent(gpus) / 1e6,
            "head_gflop": 2 * head_multiply_adds(head, update) / 1e9,
            "samples_per_second": gpus * BATCH / seconds,
        }


def part_simulation(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The published table again, then heads over numbers of GPUs and of identities."""
    network, _ = network_of(options.backbone, 112, BATCH, EMBEDDING, "mixed_float16", "flatten_fc")
    simulation = Simulation.fitted(network, Gpu())
    rows = []
    for number, (identities, head, rate, gb) in enumerate(PUBLISHED):
        row = simulation.row(head, identities, 8)
        deviation = row["samples_per_second"] / rate - 1
        about = {"published": rate, "deviation": deviation, "fitted": number in FITTED, "published_gb": gb}
        rows.append({"what": "published", **row, **about})
    rows += [
        {"what": "simulated", **simulation.row(head, identities, gpus)}
        for identities in IDENTITIES
        for gpus in GPUS
        for head in HEADS
    ]
    constants = {"network_seconds": simulation.of_network, "share_of_peak": simulation.share, **Gpu()._asdict()}
    rows.append({"what": "constants", **constants, "activations_gb": network.activations / 1e9})
    if options.out:
        draw(simulation, options.out)
    return rows


def draw(simulation: Simulation, target: Path) -> None:
    """Writes memory of a GPU over their number, and speed of eight and 64 of them over identities."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = dict(zip(HEADS, ("#c2410c", "#d69e2e", "#2563c9", "#15803d")))
    names = {head: head.name if head.sample_rate == 1 else f"{head.name} {head.sample_rate:g}" for head in HEADS}
    figure = Figure(figsize=(15, 5))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    most = IDENTITIES[-1]
    for head, colour in colours.items():
        left.plot(
            GPUS, [simulation.row(head, most, gpus)["gb"] for gpus in GPUS], "o-", color=colour, label=names[head]
        )
        for gpus, style in ((8, "-"), (64, "--")):
            rows = [simulation.row(head, identities, gpus) for identities in (125_000, *IDENTITIES)]
            possible = [row for row in rows if row["fits"]]
            speeds = [row["samples_per_second"] / gpus for row in possible]
            label = f"{names[head]}, {gpus} GPUs"
            right.plot([row["identities"] for row in possible], speeds, style, color=colour, label=label)
    for kind in (HEADS[0], HEADS[3]):
        points = [(identities, rate / 8) for identities, head, rate, _ in PUBLISHED if head == kind]
        right.scatter(*zip(*points), color=colours[kind], zorder=3, label=f"published, {names[kind]}, 8 GPUs")
    left.axhline(simulation.gpu.memory / 1e9, color="#7b8794", lw=1, ls=":")
    left.annotate("32 GB", (GPUS[0], simulation.gpu.memory / 1e9 * 1.05), color="#7b8794")
    left.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="GB a GPU", title=f"memory, {most / 1e6:g} M identities")
    left.set_xticks(GPUS, [str(gpus) for gpus in GPUS], minor=False)
    left.minorticks_off()
    right.set(xscale="log", xlabel="identities", ylabel="images/s a GPU", ylim=0, title="speed, where it fits 32 GB")
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100)

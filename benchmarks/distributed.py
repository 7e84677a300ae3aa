"""Training on several devices: what ranks gain, what strategies cost, what heads take, and how far it would scale.

    python benchmarks/distributed.py --part ranks                     # (a) 2 ranks against 1, one thread each
    python benchmarks/distributed.py --part strategies --only 'mob*'  # (a) each strategy against one device
    python benchmarks/distributed.py --part memory                    # (b) memory of a rank, measured and predicted
    python benchmarks/distributed.py --part simulation --out docs/images/distributed_scaling.png       # (c)

The first three start processes of their own, pinned to processors, and print medians and ratios of one run; they need
two quiet cores and up to ten minutes each. Memory is the largest resident size (VmHWM) less that after a tiny training
in the same process, with an allocator that gives back what is freed. The simulation computes, from bytes and
multiply-adds of an update (``facetrain.distributed.costs``) and rates that are stated below, what hosts of eight GPUs
would do; two of its rates are fitted to two rows of a published table, and it is compared with the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from facetrain.distributed.costs import (
    HeadPlan,
    Network,
    Update,
    head_bytes_touched,
    head_multiply_adds,
    memory,
    traffic,
)
from facetrain.distributed.launch import find_horovodrun, tf_config

PARTS = ("ranks", "strategies", "memory", "simulation")
BACKBONES = ("mobilenet_v1", "resnet50v2", "resnet101v2")
# Name, kind of runtime, processes.
STRATEGIES = (
    ("one device", "single", 1),
    ("mirrored, 1 replica", "mirrored", 1),
    ("multiworker, 1 worker", "multiworker", 1),
    ("multiworker, 2 workers", "multiworker", 2),
    ("horovod, 1 rank", "horovod", 1),
    ("horovod, 2 ranks", "horovod", 2),
)
# Head, ranks.
MEMORY_CASES = (("cosine", 1), ("partial", 1), ("partial", 2), ("sharded", 1), ("sharded", 2), ("sharded", 4))
PORT = 23456
# Of an allocator that keeps freed memory one would measure gaps, and of several arenas each thread's.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # whose allocator never gives anything back
}


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


# ---- processes that are measured


def start(kind: str, count: int, job: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
    """Runs a job in ``count`` processes of a runtime and returns what each found."""
    with tempfile.TemporaryDirectory(prefix="facetrain-distributed-") as folder:
        argv = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps({**job, "kind": kind}), folder]
        if kind == "horovod":
            commands = [([find_horovodrun(), "-np", str(count), "-H", f"localhost:{count}", *argv], {})]
        elif kind == "multiworker":
            hosts = [f"127.0.0.1:{PORT + rank}" for rank in range(count)]
            commands = [(argv, {"TF_CONFIG": tf_config(hosts, rank)}) for rank in range(count)]
        else:
            commands = [(argv, {})]
        places = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), os.getenv("PYTHONPATH")]))
        given = {**os.environ, "PYTHONPATH": places, **environment}
        running = [
            subprocess.Popen(command, env={**given, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for command, own in commands
        ]
        said = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit(f"{job} on {kind} x {count} failed:\n" + "\n".join(text[-3000:] for text in said))
        return [json.loads((Path(folder) / f"{rank}.json").read_text("utf-8")) for rank in range(count)]


def threads(count: int) -> dict[str, str]:
    """Returns what gives a process ``count`` threads for its operations."""
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    return {**dict.fromkeys(names, str(count)), "TF_NUM_INTEROP_THREADS": "1"}


def child(job: dict[str, Any], folder: str) -> None:
    """Runs a job in this process, one of a runtime, and writes what it found."""
    from facetrain.distributed import Runtime

    # Under horovodrun and TF_CONFIG each process takes the processors of its number.
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
    rank = int(os.environ.get("HOROVOD_RANK", cluster.get("task", {}).get("index", 0)))
    if "processors" in job:
        own = job["processors"]
        os.sched_setaffinity(0, {(rank * own + number) % (os.cpu_count() or 1) for number in range(own)})
    runtime = Runtime.create(job["kind"], devices=["CPU:0"] if job["kind"] == "mirrored" else None)
    found = {"speed": measure_speed, "memory": measure_memory}[job["job"]](job, runtime)
    (Path(folder) / f"{runtime.rank}.json").write_text(json.dumps(found), "utf-8")
    runtime.barrier()


def trained(job: dict[str, Any], runtime: Any, steps: int, callbacks: Any = ()) -> Any:
    """Trains a new recogniser for some steps on one constant batch, and returns it."""
    import numpy as np
    import tensorflow as tf

    from facetrain import heads, losses
    from facetrain.models import FaceRecognizer, build_embedding_model
    from facetrain.models.weights import common_variables
    from facetrain.optimizers import MXNetSGD

    head = {"name": job["head"], **({"sample_rate": job["rate"]} if "rate" in job else {})}
    with runtime.scope():
        network = build_embedding_model(job["backbone"], "gdc", job["embedding"], (job["size"], job["size"], 3))
        recognizer = FaceRecognizer(
            network, heads.get(head, num_classes=job["identities"], collectives=runtime.collectives)
        )
        optimizer = runtime.wrap_optimizer(MXNetSGD(learning_rate=0.001, momentum=0.9, weight_decay=5e-4))
        recognizer.compile(optimizer, losses.get("arcface"), gather_labels=runtime.gather_in_step)
    runtime.broadcast(common_variables(recognizer))
    rng = np.random.default_rng(runtime.rank)
    images = rng.integers(0, 256, (job["batch"], job["size"], job["size"], 3), dtype=np.uint8)
    batch = {"image": images, "label": rng.integers(0, job["identities"], job["batch"]).astype(np.int32)}
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensors(batch).repeat().with_options(options)
    recognizer.fit(runtime.distribute(dataset), steps_per_epoch=steps, verbose=0, callbacks=list(callbacks))
    return recognizer


def measure_speed(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Returns the median seconds of a step; the first two trace and settle."""
    from tensorflow import keras

    class Watch(keras.callbacks.Callback):
        seconds: list[float] = []

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.seconds.append(time.perf_counter() - self.start)

    watch = Watch()
    trained(job, runtime, job["steps"] + 2, [watch])
    return {"seconds": statistics.median(watch.seconds[2:])}


def measure_memory(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Returns the largest memory that three steps add to the process, in bytes."""
    tiny = {"backbone": {"name": "mobilefacenet", "width": 0.125}, "identities": 64, "embedding": 8, "batch": 2}
    trained({**job, **tiny, "size": 32}, runtime, 2)
    before = status("VmRSS")
    recognizer = trained(job, runtime, 3)
    return {"bytes": status("VmHWM") - before, "classes": recognizer.head.centres.shape[0]}


def status(field: str) -> int:
    """Returns a size of this process in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}: this measurement needs Linux")


# ---- (a) speed


def part_ranks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Two ranks with a thread each against one, in turns."""
    job = {"job": "speed", "head": "cosine", "identities": 1000, "embedding": 512, "processors": 1}
    job.update(backbone="iresnet18", size=options.size, batch=options.batch, steps=options.steps)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(options.turns):
        for ranks in (1, 2) if turn % 2 else (2, 1):
            found = start("horovod", ranks, job, **threads(1))
            seconds[ranks].append(max(one["seconds"] for one in found))
    rates = {ranks: ranks * options.batch / statistics.median(of) for ranks, of in seconds.items()}
    ratios = sorted(2 * alone / both for alone, both in zip(seconds[1], seconds[2]))
    return [
        {"what": f"iresnet18, {ranks} x 1 thread", "images_per_second": rate, "ratio": rate / rates[1]}
        for ranks, rate in rates.items()
    ] + [{"what": "ratios of turns", "lowest": ratios[0], "highest": ratios[-1]}]


def part_strategies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each strategy on two processors, in one process or two, against one device."""
    rows = []
    for backbone in [name for name in BACKBONES if fnmatch(name, options.only)]:
        job = {"job": "speed", "head": "cosine", "identities": 1000, "embedding": 512, "backbone": backbone}
        job.update(size=options.size, steps=options.steps)
        rates = {}
        for name, kind, count in STRATEGIES:
            own = {**job, "processors": 2 // count, "batch": options.batch // count}
            found = start(kind, count, own, **threads(2 // count))
            rates[name] = options.batch / max(one["seconds"] for one in found)
        first = rates[STRATEGIES[0][0]]
        rows += [
            {"what": f"{backbone}, {name}", "images_per_second": rate, "ratio": rate / first}
            for name, rate in rates.items()
        ]
    return rows


# ---- (b) memory


def memory_job(head: str, ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the job of one line: the same images and classes for all ranks together."""
    job = {"job": "memory", "head": head, "identities": options.identities, "embedding": options.embedding}
    if head != "cosine":
        job["rate"] = options.rate
    backbone = {"name": "mobilefacenet", "width": 0.25}
    return {**job, "backbone": backbone, "size": 64, "batch": max(1, options.batch // ranks)}


def predict(job: dict[str, Any], ranks: int) -> int:
    """Returns the bytes that a plan expects of the first rank."""
    network, _ = network_of(job["backbone"], job["size"], job["batch"], job["embedding"])
    update = Update(job["identities"], job["embedding"], job["batch"], ranks)
    return memory(HeadPlan(job["head"], job.get("rate", 1.0)), update, network).total


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


def part_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory of the fullest rank for each head and number of ranks."""
    rows: list[dict[str, Any]] = []
    for head, ranks in MEMORY_CASES:
        job = memory_job(head, ranks, options)
        found = start("horovod", ranks, job, **threads(1), **MALLOC)
        measured, predicted = max(one["bytes"] for one in found), predict(job, ranks)
        first = next((row["measured_mb"] for row in rows if row["head"] == head), measured / 1e6)
        rows.append(
            {
                "what": f"{head}, {ranks} {'rank' if ranks == 1 else 'ranks'}",
                "head": head,
                "classes_of_a_rank": found[0]["classes"],
                "measured_mb": measured / 1e6,
                "predicted_mb": predicted / 1e6,
                "deviation": predicted / measured - 1,
                "of_one_rank": measured / 1e6 / first,
            }
        )
    return rows


# ---- (c) simulation


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


def show(part: str, rows: list[dict[str, Any]]) -> None:
    """Prints the rows of a part, one after the other with their numbers; rows of one form under one heading."""
    print(f"== {part}")
    heading: list[str] = []
    for row in rows:
        if list(row) != heading:
            heading = list(row)
            print("  ".join(key if key == "what" else f"{key:>12}" for key in heading))
        cells = [value if key == "what" else _cell(value) for key, value in row.items()]
        print("  ".join(str(cell) for cell in cells))


def _cell(value: Any) -> str:
    return f"{value:>12.4g}" if isinstance(value, float) else f"{value!s:>12}"


def main() -> None:
    """Reads arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--only", default="*", help="pattern of backbones of 'strategies'")
    parser.add_argument("--backbone", default="iresnet50", help="of the simulation")
    parser.add_argument("--batch", type=int, default=32, help="images, of a rank in 'ranks', else of all together")
    parser.add_argument("--steps", type=int, default=7, help="that are timed")
    parser.add_argument("--turns", type=int, default=3, help="of 'ranks'")
    parser.add_argument("--size", type=int, default=112, help="of the images that are timed")
    parser.add_argument("--identities", type=int, default=2_000_000, help="of 'memory'")
    parser.add_argument("--embedding", type=int, default=128, help="of 'memory'")
    parser.add_argument("--rate", type=float, default=0.1, help="share of the classes sampled in 'memory'")
    parser.add_argument("--out", type=Path, help="PNG to draw the simulation to")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child[0]), options.child[1])
        return
    functions = dict(zip(PARTS, (part_ranks, part_strategies, part_memory, part_simulation)))
    found = {}
    for part in options.part:
        found[part] = functions[part](options)
        if not options.json:
            show(part, found[part])
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

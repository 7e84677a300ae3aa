"""Training on several devices: what ranks gain, what strategies cost, what heads take, and how far it would scale.

    python benchmarks/distributed.py --part ranks                     # (a) 2 ranks against 1, one thread each
    python benchmarks/distributed.py --part strategies --only 'mob*'  # (a) each strategy against one device
    python benchmarks/distributed.py --part memory                    # (b) memory of a rank at 1, 2 and 4 ranks
    python benchmarks/distributed.py --part simulation --out docs/images/distributed_scaling.png       # (c)

The first two start processes of their own, pinned to processors, which are built, traced and settled before anything is
timed; then they take turns of a few steps, forth and back, and a ratio is the median of those of one turn, beside the
lowest and the highest; 'busy' is the share of that time in which a process, or its threads together, had a processor.
They need two quiet cores: about four minutes for 'ranks', ten for 'strategies'.
'2 processes' are two trainings that know nothing of each other: what two ranks could reach if talking cost nothing.
Memory is the resident size of a rank less that after a tiny training in the same process, with an allocator that gives
back what is freed. The simulation is that of ``distributed_simulation.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import distributed_simulation as simulation

from facetrain.distributed.costs import HeadPlan, Memory, Update, memory
from facetrain.distributed.launch import find_horovodrun, tf_config

PARTS = ("ranks", "strategies", "memory", "simulation")
BACKBONES = ("mobilenet_v1", "resnet50v2", "resnet101v2")
# Name, kind of runtime, processes; those of one line are there at the same time, beside the first.
ONE_DEVICE = ("one device", "single", 1)
STRATEGIES = (
    (
        ("mirrored, 1 replica", "mirrored", 1),
        ("multiworker, 1 worker", "multiworker", 1),
        ("horovod, 1 rank", "horovod", 1),
    ),
    (("multiworker, 2 workers", "multiworker", 2), ("horovod, 2 ranks", "horovod", 2)),
)
MEMORY_RANKS = (1, 2, 4)
# Of an allocator that keeps freed memory one would measure gaps, and of several arenas each thread's.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # whose allocator never gives anything back
}
HERE = Path(__file__).resolve().parent


# ---- processes that are measured


class Member(NamedTuple):
    """A process that waits for a number of steps."""

    process: int
    lines: Any


class Group:
    """Processes of one runtime that train when they are told to.

    Ranks of Horovod ask each other every cycle what there is to send, also while nothing is trained: between their
    turns they are stopped.

    Args:
        kind: of the runtime; several processes of ``single`` know nothing of each other.
        count: of processes.
        job: what each of them is to do.
        **environment: of theirs.
    """

    def __init__(self, kind: str, count: int, job: dict[str, Any], **environment: str):
        self.about, self.count, self.stops = f"{job} on {kind} x {count}", count, kind == "horovod"
        self.members: list[Member] = []
        self.folder = tempfile.TemporaryDirectory(prefix="facetrain-distributed-")
        path = os.path.join(self.folder.name, "socket")
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")  # noqa: SIM115
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen(count)
        self.server.settimeout(1.0)
        places = os.pathsep.join(filter(None, [str(HERE.parent), os.getenv("PYTHONPATH")]))
        given = {**os.environ, "PYTHONPATH": places, "HOROVOD_GLOO_TIMEOUT_SECONDS": "3600", **environment}
        self.running = [
            subprocess.Popen(argv, env={**given, **own}, stdout=self.log, stderr=subprocess.STDOUT)
            for argv, own in commands(kind, count, job, path)
        ]

    def wait(self) -> Group:
        """Waits until every process is ready."""
        ready: dict[int, Member] = {}
        while len(ready) < self.count:
            if any(process.poll() is not None for process in self.running):
                self.fail()
            try:
                connection, _ = self.server.accept()
            except socket.timeout:
                continue
            with connection:
                lines = connection.makefile("rw")  # which keeps it open
            about = self.heard(lines)
            ready[about["place"]] = Member(about["process"], lines)
        self.members = [ready[place] for place in sorted(ready)]
        self.signal(signal.SIGSTOP)
        return self

    def ask(self, steps: int, members: slice = slice(None)) -> list[dict[str, Any]]:
        """Lets processes, by default all, train some steps and returns what each found."""
        self.signal(signal.SIGCONT)
        for member in self.members[members]:
            print(steps, file=member.lines, flush=True)
        found = [self.heard(member.lines) for member in self.members[members]]
        self.signal(signal.SIGSTOP)
        return found

    def heard(self, lines: Any) -> dict[str, Any]:
        """Returns what a process says; ends everything if it cannot say anything any more."""
        line = lines.readline()
        return json.loads(line) if line else self.fail()

    def signal(self, number: int) -> None:
        """Stops the processes or lets them go on, where that is needed."""
        for member in self.members if self.stops else ():
            with suppress(ProcessLookupError):  # it died: the next to listen to it says so
                os.kill(member.process, number)

    def fail(self) -> Any:
        """Ends with what the processes said."""
        self.log.seek(0)
        raise SystemExit(f"{self.about} failed:\n{self.log.read()[-3000:]}")

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: Any) -> None:
        self.signal(signal.SIGCONT)
        for member in self.members:
            member.lines.close()  # which ends a process that waits
        self.server.close()
        for process in self.running:
            try:
                process.wait(30 if self.members else 0)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        self.log.close()
        self.folder.cleanup()


def commands(kind: str, count: int, job: dict[str, Any], path: str) -> list[tuple[list[str], dict[str, str]]]:
    """Returns arguments and environment of what is to be started."""

    def argv(**more: Any) -> list[str]:
        return [sys.executable, str(HERE / "distributed_child.py"), json.dumps({**job, "kind": kind, **more}), path]

    if kind == "horovod":
        return [([find_horovodrun(), "-np", str(count), "-H", f"localhost:{count}", *argv()], {})]
    if kind == "multiworker":
        hosts = [f"127.0.0.1:{port}" for port in free_ports(count)]
        return [(argv(), {"TF_CONFIG": tf_config(hosts, rank)}) for rank in range(count)]
    return [(argv(first=place * job["processors"]), {}) for place in range(count)]


def free_ports(count: int) -> list[int]:
    """Returns ports of this host that nobody has."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def threads(count: int) -> dict[str, str]:
    """Returns what gives a process ``count`` threads for its operations."""
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    return {**dict.fromkeys(names, str(count)), "TF_NUM_INTEROP_THREADS": "1"}


# ---- (a) speed


class Row(NamedTuple):
    """A line of a table: processes that train at the same time, with ``batch`` images each."""

    what: str
    group: Group
    batch: int
    one_of_them: bool = False

    def turn(self, steps: int, number: int) -> Turn:
        """Lets them train some steps; one alone, another one each turn, if that is asked."""
        place = number % self.group.count
        found = self.group.ask(steps, slice(place, place + 1) if self.one_of_them else slice(None))
        rate = sum(self.batch * steps / one["seconds"] for one in found)
        return Turn(rate, sum(one["processor"] for one in found) / sum(one["seconds"] for one in found))


class Turn(NamedTuple):
    """Images a second of all processes together, and seconds of processors in a second of each process."""

    rate: float
    busy: float


def in_turns(rows: Sequence[Row], options: argparse.Namespace) -> dict[str, list[Turn]]:
    """Returns what each row did in every turn."""
    found: dict[str, list[Turn]] = {row.what: [] for row in rows}
    for number in range(options.turns):
        for row in rows[:: -1 if number % 2 else 1]:
            found[row.what].append(row.turn(options.steps, number))
    return found


def against(what: str, turns: Sequence[Turn], first: Sequence[Turn]) -> dict[str, Any]:
    """Returns a line: the median rate, and the ratios of neighbouring turns."""
    ratios = [turn.rate / base.rate for turn, base in zip(turns, first)]
    return {
        "what": what,
        "images_per_second": statistics.median(turn.rate for turn in turns),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "busy": statistics.median(turn.busy for turn in turns),
    }


def speed_job(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Returns the job of processes that are timed."""
    job = {"job": "speed", "head": "cosine", "identities": 1000, "embedding": 512}
    return {**job, "size": options.size, "precision": options.precision, "batch": options.batch, **more}


def part_ranks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One process, two that know nothing of each other and two ranks, a thread and a processor each, in turns."""
    job = speed_job(options, backbone="iresnet18", processors=1)
    with ExitStack() as stack:

        def group(kind: str, **more: Any) -> Group:
            return stack.enter_context(Group(kind, 2, {**job, **more}, **threads(1)))

        apart = group("single")
        ranks = {f"2 ranks{name}": group("horovod", **more) for name, more in cycles(options.cycle_ms)}
        rows = [Row("1 process", apart, options.batch, one_of_them=True), Row("2 processes", apart, options.batch)]
        rows += [Row(name, group, options.batch) for name, group in ranks.items()]
        for row in rows[1:]:
            row.group.wait()
        found = in_turns(rows, options)
    table = [against(f"iresnet18, {what}", turns, found["1 process"]) for what, turns in found.items()]
    return table + [against(f"{name} against 2 processes", found[name], found["2 processes"]) for name in ranks]


def cycles(asked: Sequence[float] | None) -> list[tuple[str, dict[str, Any]]]:
    """Returns names and options of ranks with each of the cycles that are to be compared."""
    return [(f", {cycle:g} ms", {"options": {"cycle_ms": cycle}}) for cycle in asked] if asked else [("", {})]


def part_strategies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each strategy on two processors, in one process or two, against one device."""
    table = []
    for backbone in [name for name in BACKBONES if fnmatch(name, options.only)]:
        with ExitStack() as stack:
            first = strategy(ONE_DEVICE, backbone, options, stack)
            for several in STRATEGIES:
                with ExitStack() as inner:
                    rows = [first, *(strategy(one, backbone, options, inner) for one in several)]
                    for row in rows:
                        row.group.members or row.group.wait()
                    found = in_turns(rows, options)
                here = rows[1:] if table and table[-1]["what"].startswith(backbone) else rows
                table += [against(f"{backbone}, {row.what}", found[row.what], found[first.what]) for row in here]
    return table


def strategy(about: tuple[str, str, int], backbone: str, options: argparse.Namespace, stack: ExitStack) -> Row:
    """Starts the processes of a strategy, which share the batch and two processors."""
    name, kind, count = about
    job = speed_job(options, backbone=backbone, processors=2 // count, batch=options.batch // count)
    return Row(name, stack.enter_context(Group(kind, count, job, **threads(2 // count))), job["batch"])


# ---- (b) memory


def memory_job(head: str, ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the job of one line: the same images and classes for all ranks together."""
    job = {"job": "memory", "head": head, "identities": options.identities, "embedding": options.embedding}
    if head != "cosine":
        job["rate"] = options.rate
    about = {"backbone": {"name": "mobilefacenet", "width": 0.25}, "size": 64, "precision": "float32", "processors": 1}
    return {**job, **about, "batch": max(1, options.batch // ranks)}


def remembered(kind: str, ranks: int, job: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
    """Returns what each rank takes for three steps."""
    with Group(kind, ranks, job, **threads(1), **environment) as group:
        return group.wait().ask(3)


def predict(job: dict[str, Any], ranks: int) -> Memory:
    """Returns what a plan expects of the first rank."""
    network, _ = simulation.network_of(job["backbone"], job["size"], job["batch"], job["embedding"])
    update = Update(job["identities"], job["embedding"], job["batch"], ranks)
    return memory(HeadPlan(job["head"], job.get("rate", 1.0)), update, network)


def part_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory of the fullest rank of a sharded head, for each number of ranks."""
    rows: list[dict[str, Any]] = []
    for ranks in MEMORY_RANKS:
        job = memory_job("sharded", ranks, options)
        found = remembered("horovod", ranks, job, **MALLOC)
        held, most = (max(one[key] for one in found) for key in ("held", "bytes"))
        predicted, classes = predict(job, ranks).total, found[0]["classes"]
        rows.append(
            {
                "what": f"sharded, {ranks} {'rank' if ranks == 1 else 'ranks'}",
                "classes": classes,
                "centres_and_slots_mb": 2 * 4 * classes * options.embedding / 1e6,
                "held_mb": held / 1e6,
                "of_one_rank": held / 1e6 / (rows[0]["held_mb"] if rows else held / 1e6),
                "peak_mb": most / 1e6,
                "predicted_mb": predicted / 1e6,
                "deviation": predicted / most - 1,
            }
        )
    return rows


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
    parser.add_argument("--precision", default="float32", help="of what is timed")
    parser.add_argument("--cycle-ms", type=float, nargs="+", help="cycles of Horovod to compare in 'ranks'")
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--turns", type=int, default=6, help="of 'ranks' and 'strategies'")
    parser.add_argument("--size", type=int, default=112, help="of the images that are timed")
    parser.add_argument("--identities", type=int, default=1_000_000, help="of 'memory'")
    parser.add_argument("--embedding", type=int, default=512, help="of 'memory'")
    parser.add_argument("--rate", type=float, default=0.1, help="share of the classes sampled in 'memory'")
    parser.add_argument("--out", type=Path, help="PNG to draw the simulation to")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and with it all processes
    functions = dict(zip(PARTS, (part_ranks, part_strategies, part_memory, simulation.part_simulation)))
    found = {}
    for part in options.part:
        found[part] = functions[part](options)
        if not options.json:
            show(part, found[part])
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

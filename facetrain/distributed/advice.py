"""Which head and which share of the classes fit into the memory of a rank, and what to change where none does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from facetrain.distributed.costs import HeadPlan, Memory, Network, Traffic, Update, memory, traffic

GB = 10**9
# Of a device's memory, what its driver, workspaces of convolutions and gaps between tensors may take.
RESERVE = 0.1
# The rates that are tried where none is asked for; published trainings keep their accuracy down to the last one.
RATES = (1.0, 0.5, 0.3, 0.2, 0.1)
_MOST_RANKS = 4096


@dataclass(frozen=True)
class Option:
    """A head, what it costs, and why it cannot be had.

    Attributes:
        head: the head and its rate.
        memory: of one rank.
        traffic: of one update.
        fits: whether memory and reserve are within the limit.
        refused: why the rest of the config does not allow it, or None.
    """

    head: HeadPlan
    memory: Memory
    traffic: Traffic
    fits: bool
    refused: str | None = None


@dataclass(frozen=True)
class Advice:
    """What to do.

    Attributes:
        option: what is recommended; None where nothing fits.
        sentence: the recommendation, or what to change.
    """

    option: Option | None
    sentence: str


def option(head: HeadPlan, update: Update, network: Network, limit: int, refused: Mapping[str, str]) -> Option:
    """Returns what a head costs.

    Args:
        head: the head and its rate.
        update: sizes of an update.
        network: costs of backbone and neck for the images of a pass.
        limit: bytes of the device.
        refused: why a head, by its name, cannot be had.
    """
    taken = memory(head, update, network)
    fits = taken.total <= (1 - RESERVE) * limit
    return Option(head, taken, traffic(head, update, network), fits, refused.get(head.name))


def advise(
    update: Update, network: Network, limit: int, sample_rate: float | None, refused: Mapping[str, str]
) -> Advice:
    """Recommends the head with the largest sample that fits, and among those of one rate the one that sends least.

    Args:
        update, network, limit, refused: as ``option`` takes them.
        sample_rate: the only rate to look at; None tries all classes first and then fewer.
    """
    tried: list[Option] = []
    for rate in RATES if sample_rate is None else (sample_rate,):
        found = [option(head, update, network, limit, refused) for head in _heads(rate, update)]
        allowed = [one for one in found if one.refused is None]
        fitting = [one for one in allowed if one.fits]
        if fitting:
            best = min(fitting, key=lambda one: (one.traffic.sent(update.world), one.memory.total))
            return Advice(best, _recommendation(best, update, limit))
        tried += allowed
    if not tried:
        return Advice(None, "no head goes with this configuration: " + "; ".join(sorted(set(refused.values()))))
    smallest = min(tried, key=lambda one: one.memory.total)
    return Advice(None, _what_to_change(smallest, update, network, limit))


def _heads(rate: float, update: Update) -> Sequence[HeadPlan]:
    replicated = HeadPlan("partial", rate) if rate < 1 else HeadPlan(replicated_name(update))
    return (replicated, HeadPlan("sharded", rate)) if update.world > 1 else (replicated,)


def replicated_name(update: Update) -> str:
    """Returns the head of which every rank has all classes."""
    return "subcenter" if update.centres > 1 else "cosine"


def _recommendation(best: Option, update: Update, limit: int) -> str:
    need = f"{best.memory.total / GB:.1f} of {limit / GB:g} GB"
    if update.world == 1:
        return f"recommended: {best.head.describe()}, which takes {need} in one process"
    kind = "horovod" if best.head.is_divided else "horovod, mirrored or multiworker"
    sent = best.traffic.sent(update.world) / 1e6
    return (
        f"recommended: {best.head.describe()} with runtime.kind {kind} on {update.world} ranks, which takes {need} "
        f"of each and sends {sent:.0f} MB from each in an update"
    )


def _what_to_change(smallest: Option, update: Update, network: Network, limit: int) -> str:
    needed = smallest.memory.total / (1 - RESERVE)
    ways = [*_ways(smallest.head, update, network, limit), f"devices of {math.ceil(needed / GB)} GB"]
    return (
        f"nothing fits {limit / GB:g} GB: the smallest, {smallest.head.describe()}, takes "
        f"{smallest.memory.total / GB:.1f} GB of each of {update.world} ranks, and {RESERVE:.0%} stays in reserve; "
        f"change one of these: {', '.join(ways)}"
    )


def _ways(head: HeadPlan, update: Update, network: Network, limit: int) -> Iterator[str]:
    """Yields changes that make a head fit."""

    def fits(changed: Update) -> bool:
        return option(head, changed, network.with_batch(changed.batch / update.batch), limit, {}).fits

    smaller = [update.batch >> halvings for halvings in range(1, update.batch.bit_length())]
    for batch in smaller:
        if fits(replace(update, batch=batch)):
            yield f"data.batch_size {batch * update.world * update.parts}"
            break
    for batch in smaller:
        parts = update.parts * update.batch // batch
        if update.batch % batch == 0 and fits(replace(update, batch=batch, parts=parts)):
            yield f"train.accumulate_steps {parts}"
            break
    world = 2 * update.world
    while head.is_divided and world <= min(_MOST_RANKS, update.identities):
        if fits(replace(update, world=world)):
            yield f"--world {world} with as many images a rank"
            break
        world *= 2

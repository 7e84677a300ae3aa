"""What one update costs each rank: memory, bytes on the wire and multiply-adds of a head. Arithmetic alone.

C identities, embeddings of length D, W ranks with B images each in one pass, G = W B; a head that is divided computes
with all G rows and its share S / W of the sampled classes, any other with B rows and S classes (all C without a
sample). X = S D values are the centres that a pass works with, L = B S (or G S / W) its cosines.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

FLOAT = 4  # bytes of a float32; centres, cosines, gradients and slots are never smaller
# What TensorFlow's allocator on CPUs with oneDNN adds to the tensors. A block is handed out whole unless half of it, or
# 128 MiB, would be left over, and is never given back. Which gaps come of it depends on the order of all that was asked
# for before; nine trainings, of 0.9 to 6 GB of tensors, had 0.07 to 0.39 of them.
ONEDNN_GAPS = 0.2


class HeadPlan(NamedTuple):
    """A way to hold and train the class centres.

    Attributes:
        name: of the head in a config.
        sample_rate: share of the classes that an update computes with, in (0, 1].
    """

    name: str
    sample_rate: float = 1.0

    @property
    def is_divided(self) -> bool:
        """Whether each rank holds some of the classes only."""
        return self.name == "sharded"

    @property
    def is_sampled(self) -> bool:
        """Whether gradients are of rows of the centres."""
        return self.name in ("partial", "sharded")

    def describe(self) -> str:
        """Returns it as one writes it into a config."""
        if not self.is_sampled:
            return f"head {{name: {self.name}}}"
        return f"head {{name: {self.name}, sample_rate: {self.sample_rate:g}}}"


@dataclass(frozen=True)
class Network:
    """What backbone and neck cost, in bytes.

    Attributes:
        weights: of all weights.
        trainable: of those with a gradient.
        activations: what the forward pass of one rank keeps for the backward pass.
        backward: what is alive at most in the backward pass, gradients included.
        copies: of averaged weights.
    """

    weights: int
    trainable: int
    activations: int
    backward: int
    copies: int = 0

    def with_batch(self, share: float) -> Network:
        """Returns it for ``share`` times the images."""
        return replace(self, activations=math.ceil(share * self.activations), backward=math.ceil(share * self.backward))


@dataclass(frozen=True)
class Update:
    """The sizes of an update.

    Attributes:
        identities: C.
        embedding_size: D.
        batch: images of one rank in one pass, B.
        world: ranks, W.
        parts: passes of an update, one after another.
        centres: of each class, k.
        slots: that the optimiser has for each weight.
    """

    identities: int
    embedding_size: int
    batch: int
    world: int
    parts: int = 1
    centres: int = 1
    slots: int = 1

    @property
    def global_rows(self) -> int:
        """Images of all ranks in one pass, G."""
        return self.batch * self.world


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the moment of an update at which it has most.

    Attributes:
        weights, weight_slots: backbone and neck, averaged weights included.
        centres, centre_slots: those that the rank holds.
        activations: what backbone and neck keep for their gradients.
        embeddings: those of the head, of all ranks where it is divided, and their gradients.
        logits: matrices of cosines, logits and slopes.
        centre_work: centres as vectors of length one, their gradients, and what an update of them needs.
        gradients: of backbone and neck, and whatever else their backward pass holds on top.
    """

    weights: int
    weight_slots: int
    centres: int
    centre_slots: int
    activations: int
    embeddings: int
    logits: int
    centre_work: int
    gradients: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    @property
    def on_cpu(self) -> int:
        """Resident bytes of a process on CPUs: all of it and the gaps that oneDNN's allocator leaves."""
        return round((1 + ONEDNN_GAPS) * self.total)


@dataclass(frozen=True)
class Traffic:
    """Bytes that every rank has to get from, or to bring to, all others in one update.

    Attributes:
        all_reduced: of tensors that are summed over ranks: gradients, and one number for each example.
        all_gathered: of tensors that are joined, as they are afterwards.
        reduce_scattered: of sums of which each rank keeps its part.
    """

    all_reduced: int
    all_gathered: int
    reduce_scattered: int = 0

    def sent(self, world: int) -> int:
        """Returns what one rank sends if ranks stand in a ring."""
        return round((world - 1) / world * (2 * self.all_reduced + self.all_gathered + self.reduce_scattered))


def held_classes(head: HeadPlan, update: Update) -> int:
    """Returns the classes whose centres the first rank holds, which has most."""
    return math.ceil(update.identities / update.world) if head.is_divided else update.identities


def used_classes(head: HeadPlan, update: Update) -> int:
    """Returns the classes with which a rank computes in one pass."""
    if not head.is_sampled:
        return update.identities
    examples = min(update.identities, update.global_rows)
    sampled = max(1, int(head.sample_rate * update.identities), examples)
    return math.ceil(sampled / update.world) if head.is_divided else sampled


def used_rows(head: HeadPlan, update: Update) -> int:
    """Returns the examples for which a rank computes cosines in one pass."""
    return update.global_rows if head.is_divided else update.batch


def memory(head: HeadPlan, update: Update, network: Network) -> Memory:
    """Returns the memory of one rank."""
    held = FLOAT * held_classes(head, update) * update.centres * update.embedding_size
    embeddings, logits, centre_work = _head_work(head, update)
    at_loss = network.activations + embeddings + logits + centre_work
    gradients = max(0, network.backward - at_loss)
    if update.parts > 1:  # sums over parts are kept beside the gradients of one
        gradients += network.trainable
        centre_work += FLOAT * used_classes(head, update) * update.centres * update.embedding_size
    return Memory(
        weights=network.weights + network.copies,
        weight_slots=update.slots * network.trainable,
        centres=held,
        centre_slots=update.slots * held,
        activations=network.activations,
        embeddings=embeddings,
        logits=logits,
        centre_work=centre_work,
        gradients=gradients,
    )


def _head_work(head: HeadPlan, update: Update) -> tuple[int, int, int]:
    """Returns the bytes of embeddings, logits and centres at the moment of the loss at which the head has most."""
    rows, classes, k = used_rows(head, update), used_classes(head, update), update.centres
    vectors = FLOAT * classes * k * update.embedding_size
    cosines = FLOAT * rows * classes
    all_cosines = cosines * k if k > 1 else 0  # of sub-centres, before the nearest are taken
    moments = [
        # The softmax: cosines and logits, and unit centres; beside those of a sample its rows, as read and as changed.
        (2 * cosines + all_cosines, (3 if head.is_sampled else 1) * vectors),
        (cosines + all_cosines, 2 * vectors),  # back through the product
        (0, 3 * vectors),  # back through the lengths
        (0, _update_work(head, update) * vectors),
    ]
    logits, work = max(moments, key=sum)
    embeddings = FLOAT * rows * update.embedding_size * (4 if head.is_divided else 2)
    return embeddings, logits, work


def _update_work(head: HeadPlan, update: Update) -> int:
    """Returns how many times the centres of a pass are there while they are updated."""
    if not head.is_sampled:
        return 2
    own = 3 + update.slots  # gradient, rows of centres and slots, what is added to them
    # Replicas that sample join their rows before they add them up.
    return max(own, update.world + 1) if update.world > 1 and not head.is_divided else own


def traffic(head: HeadPlan, update: Update, network: Network) -> Traffic:
    """Returns what one update sends; nothing in one process."""
    if update.world == 1:
        return Traffic(0, 0)
    used = FLOAT * used_classes(head, update) * update.centres * update.embedding_size
    labels = FLOAT * update.global_rows * update.parts
    if head.is_divided:
        joined = FLOAT * update.global_rows * update.embedding_size * update.parts
        # The own cosine, maximum and sum with gradients of two of them; two maxima for the accuracy.
        numbers = 7 * labels
        return Traffic(network.trainable + joined + numbers, joined + 3 * labels)
    if head.is_sampled:
        rows = FLOAT * used_classes(head, update)
        return Traffic(network.trainable, update.world * (used + rows) + labels)
    return Traffic(network.trainable + used, 0)


def head_multiply_adds(head: HeadPlan, update: Update) -> int:
    """Returns the multiply-adds of the head of one rank in an update: forward, and twice that back."""
    of_pass = used_rows(head, update) * used_classes(head, update) * update.centres * update.embedding_size
    return 3 * update.parts * of_pass


def head_bytes_touched(head: HeadPlan, update: Update) -> int:
    """Returns the bytes that the head of one rank reads and writes at least in an update.

    Six passes over the cosines (product, scaling, softmax, its slopes, twice the products of the way back) and ten over
    the centres (lengths, unit vectors, gradient, update of centres and slot, each read and written).
    """
    rows, classes = used_rows(head, update), used_classes(head, update)
    vectors = classes * update.centres * update.embedding_size
    return FLOAT * update.parts * (6 * rows * classes * update.centres + 10 * vectors)

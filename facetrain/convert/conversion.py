"""What every format hands over once it has rebuilt a foreign model, and what the user may say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import numpy as np

from facetrain.files import PathLike
from facetrain.models.contract import Contract


@dataclass(frozen=True)
class ConvertOptions:
    """What the user says about a foreign model; None leaves it to the family.

    Attributes:
        scaling: pixel scaling that the model was trained with, a key of ``facetrain.images.SCALINGS``.
        channels: order of the colour channels it was trained with, ``RGB`` or ``BGR``.
        template: landmark template of its crops.
        licence: licence of the weights or their training data, carried into the contract.
        images: folder of aligned face crops to compare on.
        expect: ``.npz`` with inputs ``x_nhwc`` and the ``outputs`` of the original software.
        expect_output: name of the outputs in that file, where it holds several.
        allow_unmatched: whether tensors may be left over on either side.
    """

    scaling: Optional[str] = None
    channels: Optional[str] = None
    template: Optional[str] = None
    licence: Optional[str] = None
    images: Optional[PathLike] = None
    expect: Optional[PathLike] = None
    expect_output: Optional[str] = None
    allow_unmatched: bool = False


class Matching(NamedTuple):
    """How the tensors of a file and the weights of the rebuilt model came together.

    Attributes:
        matched: number of tensors that were taken over.
        unused: tensors of the file that the network has no place for.
        missing: weights of the network that the file has no tensor for.
        skipped: tensors that do not belong to an embedding model: counters, class centres, optimiser states.
    """

    matched: int
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


class Epsilons(NamedTuple):
    """What is added to the variances of batch normalisations.

    Attributes:
        found: the values of the rebuilt model, each once, in ascending order; empty if nothing is normalised.
        stored: whether the file states them; otherwise they are those of the family, or the user's.
        usual: the values that the family has when nobody changed them.
    """

    found: tuple[float, ...]
    stored: bool
    usual: tuple[float, ...]


class Judge(NamedTuple):
    """Other software, or another derivation, that computes the source's embeddings.

    Attributes:
        name: what it is, for the report, such as ``torch 2.1``.
        embed: inputs float32 [N, S, S, 3] as the source takes them (its own channel order; scaled, unless the source
            scales pixels itself) -> embeddings [N, D].
    """

    name: str
    embed: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Conversion:
    """A foreign model, rebuilt in Keras with its weights; not yet checked or written.

    Attributes:
        model: scaled pixels [B, S, S, 3], in the source's channel order, -> embeddings [B, D].
        source: the files it was read from, for messages.
        family: what it was recognised as, such as ``arcface_torch IResNet (3, 4, 14, 3)``.
        matching: how tensors and weights came together.
        epsilons: of its batch normalisations.
        scaling, channels, template: what the family was trained with; None where nobody knows.
        scales_itself: whether the source takes pixels 0..255 and scales them inside, by ``scaling``.
        judges: others that compute the same embeddings, the most trustworthy first.
        licence: what the file itself says about its licence.
        notes: what a user should know, one sentence each.
        normalised: whether embeddings have unit length already.
        carried: a contract that the file itself holds, for what nothing above says: a calibrated threshold.
    """

    model: Any
    source: str
    family: str
    matching: Matching
    epsilons: Epsilons
    scaling: Optional[str] = None
    channels: Optional[str] = None
    template: Optional[str] = None
    scales_itself: bool = False
    judges: tuple[Judge, ...] = ()
    licence: Optional[str] = None
    notes: tuple[str, ...] = ()
    normalised: bool = False
    carried: Optional[Contract] = None

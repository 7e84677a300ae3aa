"""What a model expects of its input and what its output means: saved with every embedding model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facetrain.errors import InputError, did_you_mean
from facetrain.files import PathLike, write_json
from facetrain.images import SCALINGS

CONTRACT_FILE = "contract.json"
CHANNEL_ORDERS = ("RGB",)
TEMPLATES = ("arcface_112",)


@dataclasses.dataclass(frozen=True)
class Contract:
    """Everything a user of an embedding model must know and nobody should guess.

    Attributes:
        input_size: height and width of the aligned crop, pixels.
        embedding_size: length D of the embedding.
        scaling: name of the pixel scaling, a key of ``facetrain.images.SCALINGS``.
        channel_order: order of the colour channels of the input.
        template: landmark template that crops were aligned to, scaled from 112 to ``input_size``.
        normalised: whether the model's output has unit length already.
        flip_fusion: whether embeddings of the crop and its mirror image were added in the evaluation that
            ``threshold`` comes from.
        threshold: cosine at and above which two faces count as one person, if it was calibrated.
        threshold_far: share of different pairs of ``threshold_set`` at or above the threshold.
        threshold_set: name of the pair set the threshold was calibrated on.
        licence: licence of the training data, or of weights from elsewhere, if known.
    """

    input_size: int
    embedding_size: int
    scaling: str = "minus_one_one_127_5"
    channel_order: str = "RGB"
    template: str = "arcface_112"
    normalised: bool = False
    flip_fusion: bool = True
    threshold: float | None = None
    threshold_far: float | None = None
    threshold_set: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        for field, known in (("scaling", SCALINGS), ("channel_order", CHANNEL_ORDERS), ("template", TEMPLATES)):
            value = getattr(self, field)
            if value not in known:
                hint = did_you_mean(value, known)
                raise InputError(f"contract: {field} must be one of {', '.join(known)}, received {value!r}{hint}")
        for field in ("input_size", "embedding_size"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"contract: {field} must be a positive integer, received {value!r}")
        if self.threshold is not None and not -1.0 <= self.threshold <= 1.0:
            raise InputError(f"contract: threshold must be a cosine in [-1, 1], received {self.threshold!r}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the contract as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Builds a contract from JSON values; unknown or missing keys are refused."""
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise InputError(f"contract: unknown key {key!r}{did_you_mean(key, known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"contract: {error}") from error

    def save(self, folder: PathLike) -> None:
        """Writes ``contract.json`` into a folder, atomically."""
        write_json(Path(folder) / CONTRACT_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: PathLike) -> Contract:
        """Reads ``contract.json`` of a model folder.

        Raises:
            InputError: if it is missing or is not a contract.
        """
        path = Path(folder) / CONTRACT_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{folder}: expected a model folder with {CONTRACT_FILE}, found none; give the 'best' folder of a run"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: expected a JSON contract, but it cannot be read ({error})") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a JSON object, received {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

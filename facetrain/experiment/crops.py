"""Face crops to calibrate and check an export with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from facetrain.config import load_config
from facetrain.config.schema import EvaluateConfig, SyntheticPairsConfig
from facetrain.data.sources import FaceSource, open_source
from facetrain.errors import InputError
from facetrain.experiment.pairs import pair_set_of
from facetrain.files import PathLike
from facetrain.images import decode_image, is_image_file, read_crop
from facetrain.models import Contract
from facetrain.training.run_directory import CONFIG_FILE

_PARITY_CROPS = 32


@dataclass(frozen=True)
class CropChoice:
    """Where crops of real faces come from, and which of them are taken.

    Attributes:
        images: folder of aligned crops, its subfolders included.
        data: data set, as ``open_source`` takes it; aligned if it has landmarks.
        count: crops to calibrate on; others, up to 32, are held back to compare on.
        seed: of the choice among all images.
    """

    images: Optional[PathLike] = None
    data: Optional[PathLike] = None
    count: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images is not None and self.data is not None:
            raise InputError("crops come from a folder (--images) or from a data set (--data); give one of them")
        if self.count < 1 or self.seed < 0:
            raise InputError(f"count must be at least 1 and seed at least 0, received {self.count} and {self.seed}")

    @property
    def is_given(self) -> bool:
        """Whether there is a place to take crops from."""
        return self.images is not None or self.data is not None


class Crops(NamedTuple):
    """Crops for an export, uint8 [N, S, S, 3]: one part to calibrate on, another to compare on."""

    calibration: np.ndarray
    parity: np.ndarray


def choose_crops(choice: CropChoice, size: int) -> Crops:
    """Returns a repeatable choice of crops; the two parts share no image, unless there is only one.

    Args:
        choice: where they come from.
        size: side of the crops the model takes, pixels.

    Raises:
        InputError: if nothing is there, or an image is unreadable or no square crop.
    """
    rng, wanted = np.random.default_rng(choice.seed), choice.count + _PARITY_CROPS
    if choice.images is not None:
        root = Path(choice.images)
        paths = sorted(path for path in root.rglob("*") if path.is_file() and is_image_file(path))
        if not paths:
            raise InputError(f"{root}: expected a folder of aligned face crops, found no image in it")
        crops = [read_crop(paths[index], size) for index in rng.permutation(len(paths))[:wanted]]
    else:
        source = open_source(choice.data)
        crops = [_crop_of(source, int(index), size) for index in rng.permutation(source.num_images)[:wanted]]
    stack = np.stack(crops)
    held_back = min(_PARITY_CROPS, len(stack) // 2)
    return Crops(stack[held_back:], stack[:held_back] if held_back else stack)


def parity_crops(model_dir: PathLike, contract: Contract, count: int = _PARITY_CROPS) -> np.ndarray:
    """Returns face crops to check an export with: the run's own evaluation images, else generated faces.

    Returns:
        uint8 [N, S, S, 3], N up to ``count``.
    """
    config_file = Path(model_dir).parent / CONFIG_FILE
    evaluations = load_config(config_file).evaluate if config_file.is_file() else []
    generated = EvaluateConfig(synthetic=SyntheticPairsConfig(identities=8, images=4, pairs=count))
    for evaluation in [*evaluations, generated]:
        try:
            images = pair_set_of(evaluation, contract.input_size).images[:count]
        except InputError:  # the run's images are elsewhere by now
            continue
        return np.stack([decode_image(image, contract.input_size) for image in images])
    raise InputError("no face crops to check the export with")  # generated ones never fail


def _crop_of(source: FaceSource, index: int, size: int) -> np.ndarray:
    try:
        return source.crop(index, size)
    except InputError as error:
        raise InputError(f"{source.names(index)}: {error}") from error

"""What a converted model is compared on: noise, face crops, or inputs that came with outputs."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from facetrain.errors import InputError
from facetrain.files import PathLike
from facetrain.images import is_image_file, read_crop
from facetrain.models.contract import Contract

_NUM_SEEDED, _MAX_CROPS = 4, 32
_MAX_EXPECTED_BYTES = 1 << 30
# The name says whether inputs are already scaled, or pixels in 0..255.
_SCALED, _PIXELS = "x_nhwc", "x_nhwc_0_255"


class Expected(NamedTuple):
    """Inputs with the outputs of the original software.

    Attributes:
        name: of the file.
        inputs: float32 [N, S, S, 3], in the source's channel order.
        outputs: [N, D].
        in_pixels: whether inputs are pixels 0..255, rather than what the source takes.
    """

    name: str
    inputs: np.ndarray
    outputs: np.ndarray
    in_pixels: bool


def seeded_pixels(size: int, count: int = _NUM_SEEDED) -> np.ndarray:
    """Returns noise uint8 [count, size, size, 3], always the same."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def read_crops(folder: PathLike, size: int) -> np.ndarray:
    """Reads the first face crops of a folder and those below it, in the order of their names.

    Returns:
        uint8 [N, size, size, 3] RGB, N at most 32.
    Raises:
        InputError: if there are none, or one is unreadable or not square.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--images {folder}: expected a folder of aligned face crops, found none")
    paths = sorted(path for path in folder.rglob("*") if is_image_file(path))[:_MAX_CROPS]
    if not paths:
        raise InputError(f"--images {folder}: expected aligned face crops, found no image")
    return np.stack([read_crop(path, size) for path in paths])


def read_expected(path: PathLike, output: Optional[str], contract: Contract) -> Expected:
    """Reads inputs and outputs of the original software from an ``.npz`` file.

    Args:
        path: holds ``x_nhwc`` (or ``x_nhwc_0_255``: pixels), and ``outputs`` or the array called ``output``.
        output: name of the outputs; by default ``outputs``, else the only other array.
        contract: of the model that they should fit.
    Raises:
        InputError: if it is no such file, or shapes do not fit.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    given = next((name for name in (_SCALED, _PIXELS) if name in arrays), None)
    if given is None:
        raise InputError(f"--expect {path}: expected inputs called {_SCALED}, found {', '.join(arrays) or 'none'}")
    inputs, outputs = arrays.pop(given), _outputs(arrays, output, path)
    size, dims = contract.input_size, contract.embedding_size
    if inputs.shape != (len(outputs), size, size, 3) or outputs.shape != (len(outputs), dims) or not len(outputs):
        raise InputError(
            f"--expect {path}: expected inputs [N, {size}, {size}, 3] and outputs [N, {dims}] of this model, received "
            f"{list(inputs.shape)} and {list(outputs.shape)}"
        )
    return Expected(path.name, np.asarray(inputs, np.float32), outputs, given == _PIXELS)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > _MAX_EXPECTED_BYTES:
            raise InputError(f"--expect {path}: its arrays are larger than {_MAX_EXPECTED_BYTES >> 20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"--expect {path}: expected an .npz file of arrays, but it cannot be read ({error})"
        ) from error


def _outputs(arrays: dict[str, np.ndarray], output: Optional[str], path: Path) -> np.ndarray:
    name = output or ("outputs" if "outputs" in arrays else next(iter(arrays), "outputs"))
    if name not in arrays or (output is None and name != "outputs" and len(arrays) > 1):
        raise InputError(
            f"--expect {path}: expected the outputs under the name {output or 'outputs'!r}, found "
            f"{', '.join(arrays) or 'none'}; name them with --expect-output"
        )
    if arrays[name].ndim != 2 or arrays[name].dtype.kind not in "fiu":
        raise InputError(f"--expect {path}: expected numbers [N, D] in {name!r}, received {list(arrays[name].shape)}")
    return arrays[name]

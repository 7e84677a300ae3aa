"""What stands at the path of a teacher; imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from facetrain.errors import InputError
from facetrain.files import PathLike

STORE_FILE = "store.json"
KINDS = ("keras", "onnx", "tflite", "store")
# Files compute on pixels outside of TensorFlow, stores compute nothing.
IN_STEP = ("keras",)

_CONTRACT, _CONFIG = "contract.json", "config.yaml"


def kind_of_teacher(path: PathLike) -> str:
    """Returns ``keras``, ``onnx``, ``tflite`` or ``store``.

    Raises:
        InputError: if there is no teacher.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in (".onnx", ".tflite"):
        return path.suffix.lower()[1:]
    if (path / STORE_FILE).is_file():
        return "store"
    if (path / _CONTRACT).is_file() or (path / _CONFIG).is_file():
        return "keras"
    what = "found something else" if path.exists() else "found nothing"
    raise InputError(
        f"{path}: expected a teacher (a model folder such as runs/first/best, an .onnx or .tflite file, or embeddings "
        f"that 'facetrain embed' stored), {what}"
    )


def model_folder(path: PathLike) -> Path:
    """Returns the folder of a Keras teacher: the best model of a run directory, else the folder itself.

    Raises:
        InputError: if a run has no best model yet.
    """
    path = Path(path)
    if (path / _CONTRACT).is_file() or not (path / _CONFIG).is_file():
        return path
    if not (path / "best").is_dir():
        raise InputError(f"{path}: this run has no best model yet; let it reach its first evaluation")
    return path / "best"

"""Export as a `.keras` file that says itself how to use it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tensorflow import keras

from facetrain.errors import InputError
from facetrain.export.parity import EmbedFunction
from facetrain.files import PathLike
from facetrain.models import embedding_function
from facetrain.models.contract import CONTRACT_FILE, Contract
from facetrain.models.keras_file import load_keras_file

_MAX_CONTRACT_BYTES = 1 << 20


class KerasExporter:
    """Writes a float32 `.keras` file, for those who go on in Keras.

    Input: float32 [B, S, S, 3], scaled as the contract says. Output: float32 [B, D]. The contract is a further member
    of the zip archive, ``contract.json``, which Keras passes over.
    """

    is_folder = False
    default_name = "export.keras"
    lowest_cosine = 0.9999
    judged_by = "min"

    def target(self, out: Path) -> Path:
        """Returns the file to write: ``out``, or ``export.keras`` in it if ``out`` does not end in ``.keras``."""
        return out if out.suffix == ".keras" else out / self.default_name

    def write(self, model: keras.Model, contract: Contract, path: Path) -> None:
        """Writes the model into the file ``path``, whose name ends in ``.keras``."""
        model.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(CONTRACT_FILE, json.dumps(contract.to_dict(), indent=2, sort_keys=True))

    def load(self, path: Path) -> EmbedFunction:
        """Returns the embedding function of a written model, scaling included."""
        contract = Contract.from_dict(read_keras_contract(path))
        return embedding_function(load_keras_file(path), contract.scaling)

    def finish(self, path: Path, contract: Contract) -> None:
        """Does nothing: the contract is in the file already."""


def read_keras_contract(path: PathLike) -> dict[str, Any]:
    """Returns the contract stored in a `.keras` file, or that which lies beside it in a model folder.

    Raises:
        InputError: if the file is missing, no such model, or there is no contract.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if CONTRACT_FILE not in archive.namelist():
                if (Path(path).parent / CONTRACT_FILE).is_file():
                    return Contract.load(Path(path).parent).to_dict()
                raise InputError("it holds no contract; export it with facetrain")
            if archive.getinfo(CONTRACT_FILE).file_size > _MAX_CONTRACT_BYTES:
                raise InputError(f"its {CONTRACT_FILE} is larger than {_MAX_CONTRACT_BYTES} bytes")
            return json.loads(archive.read(CONTRACT_FILE))
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"Keras model '{path}': {error}") from error

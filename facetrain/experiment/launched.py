"""Work on a trained model by the ranks that ``horovodrun`` started, or by a process on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from tensorflow import keras

from facetrain.distributed.exchange import refuse_differences
from facetrain.distributed.horovod import launched_by_horovodrun
from facetrain.distributed.runtime import Runtime
from facetrain.files import PathLike, sha256_file
from facetrain.models import Contract, load_embedding_model
from facetrain.models.embedding_model import MODEL_FILE


def runtime_of_launch() -> Optional[Runtime]:
    """Returns the runtime of the ranks that ``horovodrun`` started; None where it did not start this process."""
    return Runtime.create("horovod") if launched_by_horovodrun() else None


def load_on_all_ranks(folder: PathLike, runtime: Optional[Runtime]) -> tuple[keras.Model, Contract]:
    """As ``load_embedding_model``, on every rank; refuses ranks that find another model there than the chief."""
    loaded = load_embedding_model(folder)
    if runtime is not None:
        refuse_differences(runtime.communicator, sha256_file(Path(folder) / MODEL_FILE), f"the model {folder}")
    return loaded

"""The run or the model folder that another run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

from facetrain.config import load_config
from facetrain.config.schema import InitConfig
from facetrain.data.manifest import read_label_map
from facetrain.errors import InputError
from facetrain.experiment.build import contract_of
from facetrain.files import sha256_file
from facetrain.models import Contract, load_embedding_model
from facetrain.models.embedding_model import MODEL_FILE
from facetrain.models.head_file import HeadFile
from facetrain.models.weights import embedding_weights
from facetrain.training.checkpoints import CheckpointStore
from facetrain.training.run_directory import RunDirectory

_CENTRES = "head/centres"


class Origin(NamedTuple):
    """What a run starts from.

    Attributes:
        weights: of the embedding model by name, read when used.
        contract: what the model expects.
        centres: class centres with ``shape`` and ``blocks()``; None if there are none.
        identities: names in the order of the labels of the centres.
        named: whether they are names of people; False: mere numbers.
        where: what is written down about it.
    """

    weights: Mapping[str, Any]
    contract: Contract
    centres: Optional[Any]
    identities: list[str]
    named: bool
    where: dict[str, Any]


def open_origin(init: InitConfig) -> Origin:
    """Opens what ``init`` names.

    Raises:
        InputError: if it is neither a run nor a model folder, lacks what is asked for, or is damaged.
    """
    folder = Path(init.origin)
    run = RunDirectory(folder)
    if not run.config.is_file() and folder.name == run.best.name:
        run = RunDirectory(folder.parent)
    is_run = run.config.is_file()
    if init.weights == "last":
        if not is_run:
            raise InputError(f"init.from: {init.origin!r} is no run directory, which init.weights: last needs")
        return _last(run, init)
    if is_run and not run.best.is_dir():
        raise InputError(
            f"init.from: {run.path} has no best model yet; let it reach its first evaluation, or set init.weights to "
            "'last' for its newest checkpoint"
        )
    return _best(run if is_run else None, run.best if is_run else folder, init)


def _best(run: Optional[RunDirectory], folder: Path, init: InitConfig) -> Origin:
    model, contract = load_embedding_model(folder)
    where = {"from": init.origin, "weights": "best", "model": sha256_file(folder / MODEL_FILE)}
    if run is None or not (run.head.is_dir() and run.label_map.is_file()):
        return Origin(embedding_weights(model), contract, None, [], True, where)
    stored, names = HeadFile(run.head), read_label_map(run.label_map).names
    stored.check_identities(names)
    stored.check_digests()
    return Origin(embedding_weights(model), contract, stored, names, _named(run, names), where)


def _last(run: RunDirectory, init: InitConfig) -> Origin:
    checkpoint = CheckpointStore(run.checkpoints).latest()
    if checkpoint is None:
        raise InputError(f"init.from: {run.path} has no checkpoint yet")
    contract = contract_of(load_config(run.config))
    state = checkpoint.state
    where = {"from": init.origin, "weights": "last", "step": state["step"], "checkpoint": state["digest"]}
    centres, names = checkpoint.arrays.get(_CENTRES), read_label_map(run.label_map).names
    if centres is not None and centres.shape[0] != len(names):
        raise InputError(f"{run.label_map}: names {len(names)} identities, but the head has {centres.shape[0]} classes")
    return Origin(checkpoint.arrays, contract, centres, names, _named(run, names), where)


def _named(run: RunDirectory, names: list[str]) -> bool:
    """Whether names are those of people; runs of earlier versions do not say so."""
    return run.read_manifest().get("data", {}).get("named", not all(name.isdigit() for name in names))

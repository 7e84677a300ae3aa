"""Whether all processes of a training are of one mind, before they build anything together."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib import metadata

from facetrain import __version__
from facetrain.config import Config, config_fingerprint
from facetrain.distributed.exchange import gather_texts
from facetrain.distributed.runtime import Runtime
from facetrain.errors import InputError

# Names of distributions; a rank may have the first or the second of a pair.
_PACKAGES = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "numpy": ("numpy",), "horovod": ("horovod",)}
# What ranks may have each for themselves, of the section "runtime".
_OWN = {"kind", "devices", "threads"}


def describe_process(config: Config) -> dict[str, str]:
    """Returns what has to be equal on all ranks: versions, and what the configuration asks for."""
    versions = {name: _version(distributions) for name, distributions in _PACKAGES.items()}
    options = config.runtime.model_dump(mode="json", exclude=_OWN)
    return {
        "facetrain": __version__,
        **versions,
        "python": platform.python_version(),
        "config fingerprint": config_fingerprint(config),
        "runtime options": json.dumps(options, sort_keys=True),
    }


def _version(distributions: Sequence[str]) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "missing"


def check_agreement(config: Config, runtime: Runtime) -> None:
    """Refuses, on every rank alike, a rank whose versions or configuration differ from the chief's.

    Raises:
        InputError: naming the rank, what it has and what the chief has.
    """
    if runtime.world == 1:
        return
    compare(gather_texts(runtime.communicator, json.dumps(describe_process(config))))


def compare(texts: Sequence[str]) -> None:
    """Refuses descriptions, as JSON and in the order of ranks, of which one differs from the first."""
    chief = json.loads(texts[0])
    for rank, text in enumerate(texts):
        other = json.loads(text)
        for what in {**chief, **other}:
            mine, theirs = other.get(what, "missing"), chief.get(what, "missing")
            if mine != theirs:
                remedy = (
                    "give all ranks the same config file and --set"
                    if what in ("config fingerprint", "runtime options")
                    else "install the same versions on all hosts"
                )
                raise InputError(f"rank {rank} has {what} {mine}, the chief has {theirs}: {remedy}")

"""From a trial's values to its configuration, and the checks of both before anything starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facetrain.config import Config, load_config
from facetrain.errors import InputError, did_you_mean
from facetrain.experiment import check
from facetrain.files import PathLike
from facetrain.tuning.dimensions import Dimension, sample
from facetrain.tuning.space import Objective, Proxy, SpaceFile

_SAMPLES = 4
_METRICS = ("accuracy", "accuracy_std", "best_threshold_accuracy", "auc", "eer", "threshold")
# What stages resolve into: a key of these that every stage sets itself would change nothing.
_RESOLVED = {"loss": True, "losses": True, "head": True, "schedule": True, "stages": True, "data": {"order"}}


def assignment(key: str, value: Any) -> str:
    """Returns what ``--set`` takes: JSON is YAML, and says the type of a value."""
    return f"{key}={json.dumps(value)}"


def evaluation_names(config: Config) -> list[str]:
    """Returns what the evaluations of a config are called in its results."""
    return [one.name or (Path(one.path).stem if one.path else "synthetic") for one in config.evaluate]


def objective_evaluation(config: Config, objective: Objective) -> str:
    """Returns the evaluation whose number decides.

    Raises:
        InputError: if the config has no such evaluation, or it no such number.
    """
    names = evaluation_names(config)
    if not names:
        raise InputError("evaluate: a search needs an evaluation to judge trials by, and the config has none")
    name = objective.evaluation or names[0]
    if name not in names:
        hint = did_you_mean(name, names) or f"; the config has {', '.join(names)}"
        raise InputError(f"objective.evaluation: there is no evaluation {name!r}{hint}")
    metric = objective.metric
    if metric not in _METRICS and not metric.startswith("tar@far="):
        hint = did_you_mean(metric, _METRICS) or f"; it has {', '.join(_METRICS)} and tar@far=..."
        raise InputError(f"objective.metric: a verification has no number {metric!r}{hint}")
    return name


def total_epochs(config: Config) -> float:
    """Returns the length of a training."""
    return sum(stage.epochs for stage in config.resolved_stages())


def proxy_assignments(config: Config, proxy: Proxy, seed: int) -> list[str]:
    """Returns what makes a config cheap, as assignments.

    Args:
        config: the training that trials stand for.
        proxy: how they are cheaper.
        seed: of the choice of people.
    Raises:
        InputError: for more people than there are.
    """
    found = []
    if proxy.size is not None:
        found.append(assignment("data.size", proxy.size))
    if proxy.epochs is not None:
        found += _shortened(config, proxy.epochs)
    if proxy.identities is not None:
        found += _fewer_people(config, proxy.identities, seed)
    return found + [assignment(key, value) for key, value in proxy.set.items()]


def _shortened(config: Config, epochs: float) -> list[str]:
    if not config.stages:
        if epochs != int(epochs):
            raise InputError(f"proxy.epochs: a training without stages takes whole epochs, received {epochs:g}")
        return [assignment("train.epochs", int(epochs))]
    share = epochs / total_epochs(config)
    stages = [assignment(f"stages.{i}.epochs", stage.epochs * share) for i, stage in enumerate(config.stages)]
    return [*stages, assignment("train.epochs", None)]


def _fewer_people(config: Config, count: int, seed: int) -> list[str]:
    data = config.data
    if data.path is None and not data.sources:
        if count > data.synthetic.identities:
            raise InputError(f"proxy.identities: {count} of {data.synthetic.identities} people: ask for fewer")
        return [assignment("data.synthetic.identities", count)]
    from facetrain.experiment.faces import open_training_source

    names = open_training_source(config).identities
    if count > len(names):
        raise InputError(f"proxy.identities: {count} of {len(names)} people: ask for fewer")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:count])
    if data.sources:
        whole: dict[str, Any] = {"kind": "concat", "sources": data.sources, "identities": data.identities}
    else:
        given = {"kind": None if data.kind == "auto" else data.kind, "path": data.path, "landmarks": data.landmarks}
        whole = {key: value for key, value in given.items() if value is not None}
    part = {"kind": "subset", "source": whole, "identities": [names[i] for i in chosen]}
    cleared = [assignment(f"data.{key}", value) for key, value in (("path", None), ("landmarks", None))]
    return [*cleared, assignment("data.kind", "auto"), assignment("data.sources", [part])]


def config_of(base: PathLike, values: Mapping[str, Any], before: Iterable[str] = (), **more: Any) -> Config:
    """Returns the config of a trial.

    Args:
        base: the config file that the search began with.
        values: dotted keys and what they are set to.
        before: assignments laid below them: the proxies.
        **more: top-level keys laid over all: ``name``.
    """
    own = [assignment(key, value) for key, value in {**values, **more}.items()]
    return load_config(base, [*before, *own])


def check_space(base: PathLike, space: SpaceFile, proxies: Sequence[str]) -> None:
    """Makes the configs of a few settings drawn from a space, and refuses what any training would refuse.

    Imports no TensorFlow.

    Raises:
        InputError: for unknown keys, components or values, and for a key that changes nothing.
    """
    dimensions = space.dimensions()
    rng = np.random.default_rng(space.seed)
    corners = [np.zeros(len(dimensions)), np.full(len(dimensions), 1 - 1e-9)]
    drawn = [*corners, *rng.uniform(size=(_SAMPLES, len(dimensions)))]
    try:
        for shares in drawn:
            config = config_of(base, sample(dimensions, shares), proxies)
            check(config)
            objective_evaluation(config, space.objective)
    except InputError as error:
        raise InputError(f"the search space, as a trial would set it: {error}") from None
    _refuse_idle_keys(base, dimensions, drawn[2:], proxies)


def _refuse_idle_keys(
    base: PathLike, dimensions: Sequence[Dimension], drawn: Sequence[np.ndarray], proxies: Sequence[str]
) -> None:
    """Refuses a key whose values make no difference, such as one that every stage says itself."""
    for number, dimension in enumerate(dimensions):
        if len(dimension.choices) == 1:
            continue
        seen = set()
        for shares in drawn:
            for end in (0.0, 1 - 1e-9):
                values = sample(dimensions, [*shares[:number], end, *shares[number + 1 :]])
                if dimension.counts(values) and dimension.key in values:
                    seen.add((shares.tobytes(), _what_is_trained(config_of(base, values, proxies))))
        if seen and len(seen) == len({shares for shares, _ in seen}):
            raise InputError(
                f"space.{dimension.key}: its values make no difference to the training: every stage says this itself, "
                f"or something else overrules it; vary the key of the stage, such as stages.0.{dimension.key}"
            )


def _what_is_trained(config: Config) -> str:
    plain = config.model_dump(mode="json", exclude=_RESOLVED)
    return json.dumps([plain, [stage._asdict() for stage in config.resolved_stages()]], sort_keys=True)


def check_hyperband(base: PathLike, space: SpaceFile, proxies: Sequence[str]) -> int:
    """Returns the most epochs of a trial under Hyperband.

    Raises:
        InputError: if the space varies the length of trials, or the longest are longer than the config.
    """
    for key in space.space:
        if key == "train.epochs" or (key.startswith("stages") and key.endswith(("stages", "epochs"))):
            raise InputError(f"space.{key}: Hyperband decides how long a trial trains: take this key out")
    epochs = total_epochs(load_config(base, proxies))
    whole = int(np.ceil(epochs))
    wanted = space.hyperband.max_epochs or whole
    if wanted > whole:
        raise InputError(
            f"hyperband.max_epochs: trials have {epochs:g} epochs, received {wanted}; make it smaller, or proxy.epochs "
            "or the config longer"
        )
    return wanted

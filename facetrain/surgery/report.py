"""Several surgeries in a row, and a report of what they did."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Union

import numpy as np
import tensorflow as tf
from tensorflow import keras

from facetrain.errors import InputError
from facetrain.layers.flops import count_flops
from facetrain.surgery.graph import all_layers, check_model
from facetrain.surgery.operation import Operation, listening
from facetrain.surgery.proof import Difference, compare, difference, outputs_of, seeded_inputs
from facetrain.surgery.rebuild import Rebuilt
from facetrain.surgery.table import SURGERIES

Step = Union[str, Mapping[str, Any]]
_ROUNDS, _BATCH = 7, 8


@dataclass(frozen=True)
class StepReport:
    """What one surgery did.

    Attributes:
        name, arguments: what was asked for.
        exact: whether equal outputs were promised, and proven.
        changed: layers that are new, gone or have another configuration or other weights.
        max_abs, max_rel: largest difference of the outputs on seeded inputs, and the same relative to the largest value
            of the output; None where the source cannot take the inputs of the new model.
    """

    name: str
    arguments: dict[str, Any]
    exact: bool
    changed: list[str]
    max_abs: float | None
    max_rel: float | None


@dataclass(frozen=True)
class Report:
    """What several surgeries did to a model; pairs are before and after.

    Attributes:
        model: its name.
        steps: each surgery.
        layers, parameters: their numbers.
        flops: multiply-adds of one example; None where a size is open.
        seconds: computing time of one example, median, in batches of up to 8.
        on_images: largest differences over all steps together on the images that were given, with their number; None
            without images, or where the new model has other outputs.
    """

    model: str
    steps: list[StepReport]
    layers: tuple[int, int]
    parameters: tuple[int, int]
    flops: tuple[int | None, int | None]
    seconds: tuple[float, float]
    on_images: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return asdict(self)


def apply(
    model: keras.Model, steps: Step | Sequence[Step], report: bool = False, images: np.ndarray | None = None
) -> keras.Model | tuple[keras.Model, Report]:
    """Does surgeries one after the other, each on the result of the one before.

    Args:
        model: a functional or sequential model; stays as it is.
        steps: names of ``SURGERIES``, or mappings such as ``{"name": "set_batch_size", "size": 1}``.
        report: return a Report too.
        images: inputs of the new model [N, ...] to measure the difference on, for the report.
    Returns:
        The new model, not compiled; with ``report=True`` the pair of it and the report.
    Raises:
        InputError: for an unknown surgery or argument, or a model that a surgery cannot take.
        SurgeryError: if a surgery promises equal outputs and does not reach them.
    """
    check_model(model)
    specs = [_spec(step) for step in ([steps] if isinstance(steps, (str, Mapping)) else steps)]
    with listening() as operations:
        new = model
        for spec in specs:
            new = SURGERIES.build(spec, model=new)
    return (new, _report(model, new, specs, operations, images)) if report else new


def changed_layers(before: keras.Model, after: keras.Model) -> list[str]:
    """Returns the paths of layers that are new, gone or have another configuration or other weights, in order."""
    old, new = dict(all_layers(before)), dict(all_layers(after))
    return [path for path in {**old, **new} if path not in old or path not in new or _differ(old[path], new[path])]


def _spec(step: Step) -> dict[str, Any]:
    spec = {"name": step} if isinstance(step, str) else dict(step) if isinstance(step, Mapping) else {}
    if not isinstance(spec.get("name"), str) or "model" in spec:
        raise InputError(f"a surgery is a name, or a mapping with a 'name' and arguments, received {step!r}")
    SURGERIES.check(spec["name"])
    return spec


def _report(
    model: keras.Model, new: keras.Model, specs: list[dict[str, Any]], operations: list[Operation], images: Any
) -> Report:
    pair = (model, new)
    return Report(
        model=model.name,
        steps=[_step_report(spec, operation) for spec, operation in zip(specs, operations)],
        layers=tuple(sum(1 for _ in all_layers(one)) for one in pair),
        parameters=tuple(one.count_params() for one in pair),
        flops=tuple(_flops(one) for one in pair),
        seconds=_seconds(pair),
        on_images=None if images is None else _on_images(model, new, operations, np.asarray(images)),
    )


def _step_report(spec: dict[str, Any], operation: Operation) -> StepReport:
    rounds = operation.rebuilt
    gaps = [_comparable(rebuilt) for rebuilt in rounds]
    known = [gap for gap in gaps if gap is not None]
    whole = len(known) == len(gaps)
    return StepReport(
        name=operation.name,
        arguments={key: value for key, value in spec.items() if key != "name"},
        exact=operation.exact,
        changed=changed_layers(rounds[0].source, rounds[-1].model),
        max_abs=max(gap.max_abs for gap in known) if whole else None,
        max_rel=max(gap.max_rel for gap in known) if whole else None,
    )


def _comparable(rebuilt: Rebuilt) -> Difference | None:
    sizes = [(old.shape[1:], new.shape[1:]) for old, new in zip(rebuilt.inputs, rebuilt.model.inputs)]
    if not all(old.is_compatible_with(new) for old, new in sizes):
        return None
    return compare(rebuilt)


def _on_images(
    model: keras.Model, new: keras.Model, operations: list[Operation], images: np.ndarray
) -> dict[str, float] | None:
    if len(model.inputs) != 1 or len(new.inputs) != 1:
        raise InputError(f"images are for a model of one input, model {model.name!r} has {len(model.inputs)}")
    rounds = [rebuilt for operation in operations for rebuilt in operation.rebuilt]
    size = new.inputs[0].shape[0] or _BATCH
    whole = len(images) // size * size if new.inputs[0].shape[0] else len(images)
    gaps = []
    for start in range(0, whole, size):
        arrays = [images[start : start + size]]
        received = outputs_of(new.inputs, new.outputs, arrays)
        for rebuilt in reversed(rounds):
            arrays = rebuilt.to_source(arrays)
        expected = outputs_of(model.inputs, model.outputs, arrays)
        if [array.shape for array in expected] != [array.shape for array in received]:
            return None
        gaps.append(difference(expected, received))
    if not gaps:
        raise InputError(f"the new model takes {size} images at once, received {len(images)}")
    return {"images": whole, "max_abs": max(g.max_abs for g in gaps), "max_rel": max(g.max_rel for g in gaps)}


def _differ(old: keras.layers.Layer, new: keras.layers.Layer) -> bool:
    if type(old) is not type(new):
        return True
    if isinstance(old, keras.Model):
        return False  # its layers are looked at one by one
    if old.get_config() != new.get_config():
        return True
    weights = (old.get_weights(), new.get_weights())
    return len(weights[0]) != len(weights[1]) or not all(map(_equal, *weights))


def _equal(old: np.ndarray, new: np.ndarray) -> bool:
    return old.shape == new.shape and old.tobytes() == new.tobytes()


def _flops(model: keras.Model) -> int | None:
    try:
        return count_flops(model)
    except ValueError:  # an open size
        return None


def _seconds(models: Sequence[keras.Model]) -> tuple[float, ...]:
    """Returns the median time of one example, the models taking turns so that both meet the same load."""
    runs = [_runner(model) for model in models]
    times = [[] for _ in models]
    for round_ in range(_ROUNDS + 1):
        for (run, count), taken in zip(runs, times):
            start = time.perf_counter()
            run()
            if round_:  # the first builds the graph
                taken.append((time.perf_counter() - start) / count)
    return tuple(float(np.median(taken)) for taken in times)


def _runner(model: keras.Model) -> tuple[Any, int]:
    arrays = [tf.constant(array) for array in seeded_inputs(model, batch=_BATCH)]
    compiled = tf.function(lambda: model(arrays if len(arrays) > 1 else arrays[0], training=False))
    return (lambda: [value.numpy() for value in tf.nest.flatten(compiled())]), len(arrays[0])

"""Training from a configuration, and going on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facetrain.config import Config, config_fingerprint, dump_yaml, load_config
from facetrain.errors import InputError
from facetrain.experiment.preflight import check
from facetrain.experiment.recipe import scaled_rates
from facetrain.files import PathLike
from facetrain.progress import say


def train(config: Config, show_progress: bool = False) -> dict[str, Any]:
    """Trains from the beginning in a new run directory.

    Args:
        config: the experiment; its ``name`` is the run's, which must not exist yet.
        show_progress: show a bar or lines on stderr.
    Returns:
        summary: run directory, best model, results of the evaluation, report.
    Raises:
        InputError: for bad input, before anything is trained.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    check(config)
    from facetrain.experiment import data_safety
    from facetrain.experiment.course import carry_out
    from facetrain.experiment.faces import Faces, build_faces
    from facetrain.experiment.initial import start_from
    from facetrain.training.run_directory import RunDirectory, describe_environment

    run = RunDirectory(Path(config.train.runs_dir) / config.name)
    rates = scaled_rates(config)

    def prepare(runtime: Any) -> Faces:
        if runtime.is_chief:
            run.refuse_existing()
        return build_faces(config, show_progress and runtime.is_chief)

    def begin(trainer: Any, faces: Faces) -> dict[str, Any]:
        checkpoint = trainer.store.latest()
        if checkpoint is not None:  # of an elastic training that a rank left with its part of a sharded head
            trainer.restore(checkpoint)
            return {}
        started = start_from(trainer, config, faces, faces.source.identities, show_progress)
        manifest = {
            **describe_environment(),
            "config_fingerprint": config_fingerprint(config),
            "data_fingerprint": faces.fingerprint,
            "images": len(faces.labels),
            "identities": faces.num_identities,
            "data": data_safety.describe_data(faces, trainer.evaluators),
            **_sequence_of(config),
            "scaled_learning_rates": [rate._asdict() for rate in rates],
            **started,
            "runtime": trainer.runtime.describe(),
            "world": trainer.runtime.world,
        }
        if trainer.runtime.is_chief and not run.config.is_file():
            with run.explaining_full_disk():
                run.create(dump_yaml(config), manifest)
                data_safety.save_label_map(run, faces)
            for rate in rates:
                say(rate.describe(), show_progress)
        return started

    return carry_out(config, run, prepare, begin, show_progress)


def resume(run_dir: PathLike, show_progress: bool = False) -> dict[str, Any]:
    """Goes on with a run from its newest whole checkpoint, or from its beginning if there is none.

    The number of processes and devices may differ from before: the images of a step do not depend on it.

    Returns:
        as ``train``.
    Raises:
        InputError: if it is no run, or its images or their sequence are no longer those it began with.
    """
    from facetrain.training.run_directory import RunDirectory

    run = RunDirectory.open(run_dir)
    config = load_config(run.config)
    if any(run.checkpoints.glob("step-*")):  # they hold what the run started from, which may be gone by now
        config = config.model_copy(update={"init": None})
    check(config)
    manifest = run.read_manifest()
    _refuse_another_sequence(run, config, manifest)
    from facetrain.data.manifest import read_label_map
    from facetrain.experiment import data_safety
    from facetrain.experiment.course import carry_out
    from facetrain.experiment.faces import Faces, build_faces
    from facetrain.experiment.initial import start_from

    def prepare(runtime: Any) -> Faces:
        return data_safety.same_data(run, build_faces(config, show_progress and runtime.is_chief))

    def begin(trainer: Any, faces: Faces) -> dict[str, Any]:
        if trainer.runtime.is_chief:
            data_safety.warn_of_changed_evaluations(run.read_manifest(), trainer.evaluators)
        checkpoint = trainer.store.latest()
        if checkpoint is not None:
            trainer.restore(checkpoint)
        elif config.init is not None:
            start_from(trainer, config, faces, read_label_map(run.label_map).names, show_progress)
        return {}

    return carry_out(config, run, prepare, begin, show_progress)


def _sequence_of(config: Config) -> dict[str, Any]:
    """Returns what decides, beside the images, which of them a step sees."""
    stages = config.resolved_stages()
    differ = any(stage.order != config.data.order for stage in stages)
    return {
        "batch_size": config.data.batch_size,
        "seed": config.seed,
        "order": config.data.order,
        # Where all stages have one order, their lengths do not matter: epochs are counted on through them.
        "stage_orders": [[stage.epochs, stage.order] for stage in stages] if differ else None,
    }


def _refuse_another_sequence(run: Any, config: Config, manifest: dict[str, Any]) -> None:
    """Refuses a sequence in which the checkpoint's step is another place: images would be lost or seen again."""
    for name, value in _sequence_of(config).items():
        if manifest.get(name, value) != value:  # runs of older versions do not say which order they have
            key = {"seed": "seed", "stage_orders": "the epochs and orders of stages"}.get(name, f"data.{name}")
            raise InputError(
                f"{run.config}: {key} is {value!r}, but the run began with {manifest[name]!r}, by which its place in "
                "the epoch is counted; set it back, or start a new run"
            )

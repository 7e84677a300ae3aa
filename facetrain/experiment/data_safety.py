"""That training and evaluation share nobody unnoticed, and that a run goes on with the data it began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from facetrain.config import Config
from facetrain.config.schema import EvaluateConfig
from facetrain.data.manifest import data_changes, data_manifest, label_map, read_label_map, renumbered, write_label_map
from facetrain.data.overlap import names_from_paths, shared_names
from facetrain.errors import InputError
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.experiment.faces import Faces
from facetrain.training.run_directory import RunDirectory

_log = logging.getLogger(__name__)

_NAMED = 5


def check_overlap(config: Config, faces: Faces, evaluators: Sequence[VerificationEvaluator], warn: bool = True) -> None:
    """Warns of, or refuses, people who are in the training set and in an evaluation set.

    Args:
        config: says which of them by ``data.overlap``.
        faces: the training images.
        evaluators: those of ``config.evaluate``, in that order.
        warn: whether this process speaks to the user; others only refuse.
    Raises:
        InputError: under ``data.overlap: fail``, if there are any.
    """
    if config.data.overlap == "ignore" or not evaluators or not (warn or config.data.overlap == "fail"):
        return
    if not faces.source.has_names:
        _log.warning("the training set has numbers, not names: whether evaluation sets share its people is not known")
        return
    nameless = []
    for evaluation, evaluator in zip(config.evaluate, evaluators):
        if not _comparable(config, evaluation):
            continue
        names = names_from_paths(evaluator.pairs.names)
        if not names:
            nameless.append(evaluator.name)
        _report(config, evaluator.name, shared_names(faces.source.identities, names))
    if nameless:
        what = "hold no names: whether they share people with the training set is not known"
        _log.warning("the evaluation sets %s %s", ", ".join(nameless), what)


def _comparable(config: Config, evaluation: EvaluateConfig) -> bool:
    """Whether equal names mean one person: generated faces of another seed are other people of the same names."""
    generated = evaluation.synthetic
    if generated is None:
        return True
    return config.data.path is None and generated.seed == config.data.synthetic.seed


def _report(config: Config, name: str, shared: Sequence[str]) -> None:
    if not shared:
        return
    shown = ", ".join(shared[:_NAMED]) + (", ..." if len(shared) > _NAMED else "")
    what = f"{len(shared)} identities of the training set are in the evaluation set {name!r} too: {shown}"
    if config.data.overlap == "fail":
        raise InputError(
            f"data.overlap: {what}; take them out of the training set ('facetrain data overlap' lists them all), or "
            "set data.overlap to 'warn'"
        )
    _log.warning("%s; its figures will look better than they are ('facetrain data overlap' lists them all)", what)


def describe_evaluations(evaluators: Sequence[VerificationEvaluator]) -> dict[str, Any]:
    """Returns digest and counts of every evaluation set by name, for the manifest."""
    return {
        evaluator.name: {
            "fingerprint": evaluator.pairs.fingerprint(),
            "pairs": len(evaluator.pairs),
            "images": len(evaluator.pairs.images),
        }
        for evaluator in evaluators
    }


def describe_data(faces: Faces, evaluators: Sequence[VerificationEvaluator]) -> dict[str, Any]:
    """Returns what a run's manifest says about its data sets."""
    return {
        "train": data_manifest(faces.source),
        "named": faces.source.has_names,
        "evaluate": describe_evaluations(evaluators),
    }


def save_label_map(run: RunDirectory, faces: Faces) -> None:
    """Writes which identity has which label into the run directory."""
    write_label_map(run.label_map, label_map(faces.source))


def same_data(run: RunDirectory, faces: Faces) -> Faces:
    """Returns the training images with the labels that the run began with.

    Raises:
        InputError: if images, labels or identities are no longer those; says what changed.
    """
    manifest = run.read_manifest()
    before = manifest.get("data", {}).get("train")
    if before is None:  # a run of an earlier version
        changes = [] if manifest.get("data_fingerprint") == faces.fingerprint else ["files or labels are others"]
        labels = faces.labels
    else:
        saved = read_label_map(run.label_map)
        changes = data_changes(before, saved, faces.source)
        labels = faces.labels if changes else renumbered(faces.labels, faces.source.identities, saved.names)
    if not changes and manifest.get("images", len(labels)) != len(labels):
        changes = [f"{len(labels)} images are readable"]
    if changes:
        raise InputError(
            f"{run.path}: expected the images the run began with ({manifest.get('images')} of "
            f"{manifest.get('identities')} identities), but since then {'; '.join(changes)}; restore them, or start a "
            "new run"
        )
    return replace(faces, labels=labels)


def warn_of_changed_evaluations(manifest: Mapping[str, Any], evaluators: Sequence[VerificationEvaluator]) -> None:
    """Warns where an evaluation set is no longer the one that the run began with: figures do not compare then."""
    before = manifest.get("data", {}).get("evaluate", {})
    for name, now in describe_evaluations(evaluators).items():
        was = before.get(name, now)
        if was != now:
            what = f"{was.get('pairs')} pairs of {was.get('images')} images then, {now['pairs']} of {now['images']} now"
            _log.warning(
                "the evaluation set %r changed since the run began: %s; its figures do not compare", name, what
            )

"""What a run remembers about its data: digests, counts and who has which label; and what changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from facetrain.data.sources import FaceSource
from facetrain.errors import InputError
from facetrain.files import PathLike, write_json

_NAMED = 3


class LabelMap(NamedTuple):
    """Which identity has which label.

    Attributes:
        names: name of each identity, in the order of the labels.
        images: number of images of each.
    """

    names: list[str]
    images: list[int]


class LabelMapChange(NamedTuple):
    """How the identities of a data set differ from those of a label map.

    Attributes:
        added: names that the map does not know.
        removed: names of the map that are gone.
        moved: names that are in both, under another label.
    """

    added: list[str]
    removed: list[str]
    moved: list[str]


def label_map(source: FaceSource) -> LabelMap:
    """Returns the label map of a source."""
    counts = np.bincount(source.labels, minlength=source.num_identities)
    return LabelMap(list(source.identities), counts.tolist())


def write_label_map(path: PathLike, labels: LabelMap) -> None:
    """Writes a label map as JSON, atomically: ``names`` in the order of the labels, and ``images`` of each."""
    write_json(path, labels._asdict())


def read_label_map(path: PathLike) -> LabelMap:
    """Reads what ``write_label_map`` wrote.

    Raises:
        InputError: if the file is missing or holds no label map.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            value = json.load(handle)
        names, images = value["names"], value["images"]
        good = all(isinstance(name, str) for name in names) and all(type(count) is int for count in images)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a label map, but it cannot be read ({error})") from error
    if not good or len(names) != len(images) or len(set(names)) != len(names):
        raise InputError(f"{path}: expected a label map, with as many 'images' as different 'names'")
    return LabelMap(names, images)


def compare_label_maps(before: Sequence[str], now: Sequence[str]) -> LabelMapChange:
    """Compares the identities of a saved label map with those of a data set.

    Args:
        before: names in the order of their labels.
        now: the same of the data set.
    """
    old, new = ({name: label for label, name in enumerate(names)} for names in (before, now))
    return LabelMapChange(
        [name for name in now if name not in old],
        [name for name in before if name not in new],
        [name for name in now if name in old and old[name] != new[name]],
    )


def renumbered(labels: np.ndarray, identities: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Returns labels as a saved label map numbers them, so that they mean the same in every run.

    Args:
        labels: int32 [N], as the source numbers them.
        identities: names of the source, in the order of its labels.
        names: names of the label map; identities that it does not know get the numbers behind it.
    Returns:
        int32 [N].
    """
    known = {name: label for label, name in enumerate(names)}
    places = [known.setdefault(name, len(known)) for name in identities]
    return np.array(places, np.int32)[labels]


def data_manifest(source: FaceSource, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns what tells a data set from another, as values that JSON can hold.

    Args:
        source: the images.
        names: a saved label map by which to number the labels; by default as the source does.
    Returns:
        ``fingerprint`` of everything (for a record file: index and samples; for a folder: names, sizes and times of
        its files), ``images``, ``identities``, and digests of ``labels`` and ``label_map``.
    """
    names = list(source.identities if names is None else names)
    labels = renumbered(source.labels, source.identities, names)
    return {
        "fingerprint": source.fingerprint(),
        "images": source.num_images,
        "identities": source.num_identities,
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "label_map": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
    }


def data_changes(before: Mapping[str, Any], saved: LabelMap, source: FaceSource) -> list[str]:
    """Says what changed in a data set since its manifest was written.

    Args:
        before: what ``data_manifest`` returned then.
        saved: the label map of that time.
        source: the data set now.
    Returns:
        one phrase for each change; none if nothing changed.
    """
    now = data_manifest(source, saved.names)
    if all(before.get(key) == now[key] for key in now):
        return []
    current = label_map(source)
    if current.images == saved.images and before.get("labels") == _own_labels(source) and current.names != saved.names:
        return _renamed(saved.names, current.names)
    phrases = _identity_changes(saved, current) + _count_changes(saved, current)
    if not phrases and before.get("labels") != now["labels"]:
        phrases = ["images have other labels, or stand in another order"]
    return phrases or ["the number of images is the same, but files were replaced, touched or renamed"]


def _own_labels(source: FaceSource) -> str:
    return hashlib.sha256(np.asarray(source.labels, np.int32).tobytes()).hexdigest()


def _renamed(before: Sequence[str], now: Sequence[str]) -> list[str]:
    pairs = [(old, new) for old, new in zip(before, now) if old != new]
    shown = ", ".join(f"{old!r} to {new!r}" for old, new in pairs[:_NAMED])
    return [f"{len(pairs)} identities were renamed ({shown}{_more(len(pairs))})"]


def _identity_changes(before: LabelMap, now: LabelMap) -> list[str]:
    change = compare_label_maps(before.names, now.names)
    return [
        f"{len(names)} identities were {verb} ({', '.join(map(repr, names[:_NAMED]))}{_more(len(names))})"
        for names, verb in ((change.added, "added"), (change.removed, "removed"))
        if names
    ]


def _count_changes(before: LabelMap, now: LabelMap) -> list[str]:
    old, new = (dict(zip(labels.names, labels.images)) for labels in (before, now))
    differences = {name: new.get(name, 0) - old.get(name, 0) for name in {**old, **new}}
    phrases = []
    for sign, verb in ((1, "added"), (-1, "removed")):
        of = [name for name, difference in differences.items() if sign * difference > 0]
        count = sum(sign * differences[name] for name in of)
        if count:
            phrases.append(f"{count} images were {verb} (of {', '.join(map(repr, of[:_NAMED]))}{_more(len(of))})")
    return phrases


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""

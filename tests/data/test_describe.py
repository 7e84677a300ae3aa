"""What is said about a source."""

from __future__ import annotations

import json

import numpy as np

from facetrain.data import describe as describing
from facetrain.data.describe import describe
from facetrain.data.record_source import RecordSource
from tests.data.faces import ListedSource, pictures
from tests.shared import shared_path


def listed(labels, broken=()):
    return ListedSource(pictures(len(labels)), labels, broken)


def test_describe():
    source = listed([0] * 5 + [1] * 2 + [2], broken=[6])
    about = describe(source, size=10)
    assert json.loads(json.dumps(about)) == about
    assert (about["images"], about["identities"]) == (8, 3)
    assert about["images_per_identity"] == {"min": 1, "median": 2.0, "mean": 2.67, "max": 5}
    assert about["histogram"] == [
        {"from": 1, "to": 1, "identities": 1, "images": 1},
        {"from": 2, "to": 3, "identities": 1, "images": 2},
        {"from": 4, "to": 7, "identities": 1, "images": 5},
    ]
    assert about["sampled"]["images"] == 8
    assert about["sampled"]["sizes"] == {"16x16": 7}
    assert about["sampled"]["mean_bytes"] == round(np.mean([len(data) for data in source.data if data != b"no image"]))
    assert [bad["name"] for bad in about["sampled"]["unreadable"]] == ["image6"]
    assert about["cache_bytes"] == 8 * 10 * 10 * 3
    assert about["landmarks"] is False
    assert about["property"] is None


def test_describe_samples_large_sources(monkeypatch):
    monkeypatch.setattr(describing, "_SAMPLED", 5)
    source = listed([0, 1] * 20)
    assert describe(source)["sampled"]["images"] == source.reads == 5


def test_describe_a_record_set():
    about = describe(RecordSource(shared_path("goldens/recordio/emore_flag2")))
    assert about["property"] == {"classes": 12, "height": 112, "width": 112}
    assert about["sampled"]["sizes"] == {"112x112": 66}
    assert sum(part["identities"] for part in about["histogram"]) == 12

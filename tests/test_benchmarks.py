"""The generator of ``benchmarks/scale.py``: its files are those that the slow writer makes."""

from __future__ import annotations

import numpy as np
import pytest

from facetrain.data.record_source import RecordSource
from facetrain.data.recordio import Record, RecordIOWriter
from tests.scripts import load_script


@pytest.fixture(scope="module")
def scale():
    return load_script("benchmarks/scale.py")


@pytest.mark.parametrize("header", [True, False])
def test_generated_files_are_what_the_writer_makes(scale, tmp_path, monkeypatch, header):
    monkeypatch.setattr(scale, "_BLOCK", 6)  # a multiple of the payloads, as the real one is
    payloads, images, identities = [b"8 bytes.", b"nine byte", b""], 20, 3
    scale.write_records(tmp_path / "fast" / "train.rec", payloads, images, identities, header)
    labels = np.sort(np.arange(images) % identities)
    with RecordIOWriter(tmp_path / "slow.rec") as writer:
        if header:
            writer.write(0, Record.of(b"", (1 + images, 1 + images + identities)))
        for number, label in enumerate(labels.tolist()):
            writer.write(number + header, Record.of(payloads[number % 3], label, number + header))
        for identity in range(identities if header else 0):
            first, last = np.flatnonzero(labels == identity)[[0, -1]].tolist()
            writer.write(1 + images + identity, Record.of(b"", (1 + first, 2 + last)))
    for suffix in (".rec", ".idx"):
        assert (tmp_path / "fast" / f"train{suffix}").read_bytes() == (tmp_path / f"slow{suffix}").read_bytes()
    source = RecordSource(tmp_path / "fast")
    np.testing.assert_array_equal(source.labels, labels)
    assert source.read([0, 19]) == [payloads[0], payloads[1]]


def test_a_set_is_opened_within_its_own_process(scale, tmp_path):
    scale.write_records(tmp_path / "set" / "train.rec", [b"image"], 500, 20, True)
    about = scale.run_child("open", str(tmp_path / "set"))
    assert about["found"] == "500 images, 20 identities"
    assert about["seconds"] >= 0 and about["peak_mb"] >= 0 and about["own_mb"] >= 0

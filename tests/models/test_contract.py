from __future__ import annotations

import json

import pytest

from facetrain.errors import InputError
from facetrain.models import Contract


def test_round_trip(tmp_path):
    contract = Contract(112, 512, scaling="zero_one_255", threshold=0.31, threshold_set="lfw", licence="CC0")
    contract.save(tmp_path)
    assert Contract.load(tmp_path) == contract


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scaling": "minus_one_one_127"}, "did you mean"),
        ({"channel_order": "BGR"}, "RGB"),
        ({"input_size": 0}, "positive integer"),
        ({"input_size": "112"}, "positive integer"),
        ({"threshold": 1.5}, r"\[-1, 1\]"),
        ({"thresold": 0.5}, "did you mean 'threshold'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, says):
    values = {**Contract(112, 512).to_dict(), **change}
    (tmp_path / "contract.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=says):
        Contract.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"input_size": 112}'])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "contract.json").write_bytes(content)
    with pytest.raises(InputError, match="contract.json"):
        Contract.load(tmp_path)


def test_a_folder_without_contract_is_refused(tmp_path):
    with pytest.raises(InputError, match="'best' folder"):
        Contract.load(tmp_path)

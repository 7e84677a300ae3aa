"""The table of heads."""

from __future__ import annotations

import pytest

from facetrain import heads
from facetrain.errors import InputError
from facetrain.layers.cosine import CosineDense


def test_resolver():
    head = heads.get("cosine", num_classes=7)
    assert isinstance(head, CosineDense) and head.num_classes == 7
    assert heads.get(head, num_classes=9) is head
    assert heads.get({"name": "cosine", "num_classes": 3}, num_classes=9).num_classes == 3


@pytest.mark.parametrize(
    "spec,word", [("cosin", "cosine"), ({"name": "cosine", "classes": 3}, "classes"), (3, "a head must be")]
)
def test_refusals(spec, word):
    with pytest.raises(InputError, match=word):
        heads.get(spec, num_classes=2)

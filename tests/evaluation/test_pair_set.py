from __future__ import annotations

import numpy as np
import pytest

from facetrain.errors import InputError
from facetrain.evaluation import PairSet
from tests.evaluation.helpers import picture_pairs


def test_defaults_follow_the_bin_layout():
    pair_set = PairSet([b"a", b"b", b"c", b"d"], [1, 0])
    assert pair_set.pairs.tolist() == [[0, 1], [2, 3]] and pair_set.pairs.dtype == np.int32
    assert pair_set.is_same.tolist() == [True, False] and pair_set.is_same.dtype == bool
    assert pair_set.names[2] == "image 2" and len(pair_set) == 2 and pair_set.num_same == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"images": [b""] * 3, "is_same": [1, 0]}, "there are 3 images"),
        ({"images": [b""] * 4, "is_same": [1, 2]}, "True and False"),
        ({"images": [b""] * 4, "is_same": [1, 0], "pairs": [[0, 1]]}, "shape [2, 2]"),
        ({"images": [b""] * 4, "is_same": [1], "pairs": [[0, -1]]}, "point at images -1"),
        ({"images": [b""] * 2, "is_same": [1], "names": ["x"]}, "1 names"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, part):
    with pytest.raises(InputError) as caught:
        PairSet(**arguments, name="set")
    assert part in str(caught.value) and "'set'" in str(caught.value)


def test_fingerprint_sees_images_pairs_and_flags_but_not_names():
    base = PairSet([b"a", b"b", b"c", b"d"], [1, 0])
    assert base.fingerprint() == PairSet([b"a", b"b", b"c", b"d"], [1, 0], names=list("wxyz"), name="z").fingerprint()
    others = [
        PairSet([b"a", b"b", b"c", b"e"], [1, 0]),
        PairSet([b"ab", b"", b"c", b"d"], [1, 0]),
        PairSet([b"a", b"b", b"c", b"d"], [0, 1]),
        PairSet([b"a", b"b", b"c", b"d"], [1, 0], [[0, 1], [2, 2]]),
    ]
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_deduplicated_keeps_every_pair_and_each_image_once():
    doubled = PairSet([b"a", b"b", b"a", b"c", b"c", b"b"], [1, 0, 1], names=list("012345"))
    single = doubled.deduplicated()
    assert single.images == [b"a", b"b", b"c"] and single.names == ["0", "1", "3"]
    for pair, pair_of_doubled in zip(single.pairs, doubled.pairs):
        assert [single.images[i] for i in pair] == [doubled.images[i] for i in pair_of_doubled]
    distinct = picture_pairs()
    assert distinct.deduplicated() is distinct

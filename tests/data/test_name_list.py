"""Names in little memory: a list in all that one sees."""

from __future__ import annotations

import hashlib
import json
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.data.folder_source import FolderSource
from facetrain.data.name_list import NameList
from tests.data.faces import write_folder


def listed(names) -> NameList:
    made = NameList()
    for name in names:
        made.append(name)
    return made


@given(st.lists(st.text(st.characters(), max_size=6), max_size=8), st.slices(8))
@settings(deadline=None)
def test_equals_a_list(names, some):
    found = listed(names)
    assert list(found) == names and len(found) == len(names)
    assert [found[-1 - place] for place in range(len(names))] == names[::-1]
    assert found[some] == names[some]
    assert "".join(found.as_json()) == json.dumps(names)
    assert [found[np.int64(place)] for place in range(len(names))] == names
    with pytest.raises(IndexError):
        found[len(names)]


def test_takes_little_memory():
    names = [f"identity_{number:06d}/{number:04d}.jpg" for number in range(20_000)]
    tracemalloc.start()
    found = listed(names)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(found) == 20_000
    assert taken < sum(map(len, names)) * 1.3 + 20_000 * 10 < sum(map(sys.getsizeof, names))


def test_the_fingerprint_of_a_folder_is_that_of_plain_lists(tmp_path):
    """So that caches and runs from before are still known."""
    names = sorted(write_folder(tmp_path / "set", {"ann": 2, "Émile": 1, "zoe": 1}))
    source = FolderSource(tmp_path / "set")
    assert sorted(source.names(index) for index in range(4)) == names
    digest = hashlib.sha256(json.dumps(["folder", [source.names(i) for i in range(4)], source.identities]).encode())
    for index in range(4):
        status = (tmp_path / "set" / source.names(index)).stat()
        digest.update(np.array([status.st_size, status.st_mtime_ns], np.int64).tobytes())
    assert source.fingerprint() == digest.hexdigest()

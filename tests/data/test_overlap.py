"""Names of people in two data sets: other spellings are found, other names are not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facetrain.data.overlap import fold_name, names_from_paths, shared_names


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Ann_Lee", "ann lee", True),
        ("Ann-Lee", "ANN__LEE ", True),
        ("Straße", "STRASSE", True),
        (unicodedata.normalize("NFC", "José"), unicodedata.normalize("NFD", "josé"), True),
        ("Ann_Lee", "AnnLee", False),
        ("Ann Lee", "Ann Lees", False),
        ("José", "Jose", False),
        ("0001", "001", False),
    ],
)
def test_spellings(one, other, same):
    assert (fold_name(one) == fold_name(other)) is same
    assert shared_names([one], [other]) == ([one] if same else [])


words = st.lists(st.sampled_from(["ann", "bob", "lee"]), min_size=1, max_size=3)


@given(st.lists(words, max_size=6), st.lists(words, max_size=6), st.data())
@settings(deadline=None)
def test_equals_comparing_words(ours, theirs, data):
    """Names put together with any separators and capitals, against their words."""

    def spell(parts):
        separators = data.draw(
            st.lists(st.sampled_from(["_", "-", " ", "_-"]), min_size=len(parts), max_size=len(parts))
        )
        name = "".join(word + separator for word, separator in zip(parts, separators))
        return name.upper() if data.draw(st.booleans()) else name

    names, others = [spell(parts) for parts in ours], [spell(parts) for parts in theirs]
    assert shared_names(names, others) == [name for name, parts in zip(names, ours) if parts in theirs]


def test_names_that_say_nothing_are_no_overlap():
    assert shared_names(["_", "", "ann"], ["-", "", "bob"]) == []


def test_identities_of_paths():
    paths = ["a/b/ann/1.jpg", "bob/2.jpg", "/data/ann/3.jpg", "image 7", "./loose.jpg", "../up.jpg"]
    assert names_from_paths(paths) == ["ann", "bob"]

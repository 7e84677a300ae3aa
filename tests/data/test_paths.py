"""Names that strangers chose: none leads out of a folder, none makes a file where it should not."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facetrain.data.paths import DistinctNames, below, safe_name, without_suffix
from facetrain.errors import InputError

NAMES = st.text(max_size=40)


@given(NAMES)
@example("../../etc/passwd")
@example("..")
@example("a/../../b")
@example("/etc/passwd")
@example("C:\\\\windows")
@example("..\\\\up")
@example("a\0b")
@example("./a")
def test_a_path_is_below_the_root_or_refused(name):
    root = Path("/data/faces")
    try:
        path = below(root, name)
    except InputError:
        return
    assert os.path.normpath(path).startswith(str(root))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a.jpg", "leaves the folder"),
        ("a/../../b.jpg", "leaves the folder"),
        ("a\\..\\b.jpg", "leaves the folder"),
        ("/a.jpg", "is absolute"),
        ("C:\\a.jpg", "is absolute"),
        (" ", "expected the path of an image"),
        ("a\0.jpg", "expected the path of an image"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        below(Path("root"), name)


def test_absolute_paths_where_they_are_allowed():
    assert below(Path("root"), "/data/a.jpg", allow_absolute=True) == Path("/data/a.jpg")
    assert below(Path("root"), "b/c d.jpg", allow_absolute=True) == Path("root/b/c d.jpg")
    with pytest.raises(InputError, match="leaves the folder"):
        below(Path("root"), "/data/../etc/a.jpg", allow_absolute=True)


@given(NAMES)
@example("..")
@example(".hidden")
@example("con")
@example("NUL.txt")
@example("x" * 500)
@example("\u00e9" * 200)
@example("\ud800")
def test_safe_names_are_one_visible_component_on_any_system(name):
    safe = safe_name(name)
    assert safe and not safe.startswith(".") and not safe.endswith((".", " "))
    assert PurePosixPath(safe).parts == PureWindowsPath(safe).parts == (safe,)
    assert not PureWindowsPath(safe).is_reserved()
    assert len(safe.encode("utf-8", "replace")) <= 120
    assert safe_name(safe) == safe


@pytest.mark.parametrize("name", ["Ann", "Émile Ångström", "a.b", "n000002", "王伟", "O'Neil-Smith_2"])
def test_harmless_names_stay(name):
    assert safe_name(name) == name


def test_long_names_stay_apart():
    one, other = safe_name("x" * 300 + "a"), safe_name("x" * 300 + "b")
    assert one != other and one[:100] == other[:100] == "x" * 100


@given(st.lists(st.sampled_from(["a", "A", "a/b", "a_b", "a~2", "..", "."]), max_size=20))
def test_distinct_names_differ_even_in_lower_case(names):
    distinct = DistinctNames()
    made = [distinct.add(name) for name in names]
    assert len({name.lower() for name in made}) == len(names)


def test_suffixes_of_images_only():
    assert [without_suffix(name) for name in ("a/b.jpg", "b.JPEG", "b.v2", "b.png.webp", "b")] == [
        "a/b",
        "b",
        "b.v2",
        "b.png",
        "b",
    ]

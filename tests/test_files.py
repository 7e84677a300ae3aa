"""What writers that are killed leave behind, and how it goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from facetrain.files import remove_leftovers

# Dies where it is told: while it writes, or between stepping the old folder aside and putting the new one in its place.
_WRITER = """
import os, signal, sys
from facetrain import files
folder, where = sys.argv[1:]
die = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
if where == "between":
    replace = files.os.replace
    files.os.replace = lambda old, new: die() if old.name.endswith(".tmp") else replace(old, new)
with files.atomic_folder(folder + "/best") as temporary:
    (temporary / "model").write_text("new")
    if where == "folder":
        die()
with files.atomic_path(folder + "/state.json") as temporary:
    temporary.write_text("new")
    die()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    """With an old model, and things of others that look similar."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model").write_text("old")
    for name in (".best.notes.tmp", ".besten.abcdefgh.tmp", "best.abcdefgh.tmp", ".abcdefgh.tmp"):
        (tmp_path / name).write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("where", "left", "model"), [("folder", "tmp", "old"), ("between", "old", "old"), ("file", "tmp.json", "new")]
)
def test_what_a_killed_writer_leaves_is_removed_and_nothing_else(folder, where, left, model):
    before = names(folder)
    done = subprocess.run([sys.executable, "-c", _WRITER, str(folder), where], check=False)
    assert done.returncode == -signal.SIGKILL
    assert any(name.endswith(f".{left}") for name in set(names(folder)) - set(before)), "nothing to be removed"
    remove_leftovers(folder, "best", "*.json")
    assert names(folder) == before and (folder / "best" / "model").read_text() == model


def test_links_are_removed_and_not_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").write_text("stays")
    os.symlink(elsewhere, folder / ".best.abcdefgh.tmp")
    before = names(folder)
    remove_leftovers(folder, "best")
    assert names(folder) == [name for name in before if name != ".best.abcdefgh.tmp"] and names(elsewhere) == ["file"]


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "none", "*")
    assert not (tmp_path / "none").exists()

"""Progress: every item comes through, and a reader of stderr sees how far and how fast."""

from __future__ import annotations

import io
import re
import sys

from facetrain import progress
from facetrain.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silence_unless_asked(capsys):
    assert list(track(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_lines_when_piped(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL_S", 0.0)
    assert list(track(iter("ab"), "reading", total=2, show=True)) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"reading: 1/2 \(\d+/s, \d+ s left\)", lines[0])
    assert re.fullmatch(r"reading: 2/2 in \d+\.\d s", lines[-1])


def test_a_bar_on_a_terminal_shows_the_rate(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    assert list(track(range(50), "checking", show=True)) == list(range(50))
    assert "checking" in terminal.getvalue() and "50/50" in terminal.getvalue()
    assert re.search(r"[\d,]+/s", terminal.getvalue())


def test_a_bar_passes_errors_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    seen = []
    try:
        for item in track(range(5), "checking", show=True):
            seen.append(item)
            if item == 2:
                raise KeyError(item)
    except KeyError:
        pass
    assert seen == [0, 1, 2]

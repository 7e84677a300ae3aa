"""Tables, results and JSON on stdout."""

from __future__ import annotations

import io
import json
import sys

import numpy as np

from facetrain.cli.output import print_json, print_result, print_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_are_plain_when_piped(capsys):
    print_table(["name", "size"], [("a", 1), ("long", None), ("b", [1, 2])], numeric=["size"])
    assert capsys.readouterr().out == "name  size\na        1\nlong     -\nb     1, 2\n"


def test_tables_are_drawn_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    print_table(["name", "size"], [("[bold]", 1)], numeric=["size"])
    assert "─" in terminal.getvalue()
    assert "[bold]" in terminal.getvalue()


def test_results_are_flat_lines(capsys):
    print_result({"a": 1 / 3, "set": {"x": True, "longer": None}})
    assert capsys.readouterr().out == "a           0.333333\nset.x       yes\nset.longer  -\n"


def test_json_is_one_line_and_knows_numpy(capsys):
    print_json({"a": np.float32(0.5), "b": np.arange(2), "c": float("inf"), "d": (1, {"e": None})})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"a": 0.5, "b": [0, 1], "c": None, "d": [1, {"e": None}]}

"""The ``facetrain`` command."""

from __future__ import annotations

from facetrain.cli.program import main, run

__all__ = ["main", "run"]

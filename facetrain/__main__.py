"""``python -m facetrain``."""

from __future__ import annotations

from facetrain.cli import run

if __name__ == "__main__":
    run()

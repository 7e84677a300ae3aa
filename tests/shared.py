"""Access to the folder of goldens and photographs that lies beside the repository on development machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("FACETRAIN_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared_path(relative: str) -> Path:
    """Returns a path below the shared folder, or skips the test with the reason."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} from the shared folder, which is not beside this checkout")
    return path

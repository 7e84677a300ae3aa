"""Other software that is asked where it is installed, and never needed."""

from __future__ import annotations

import importlib
from typing import Any, Optional


def import_if_there(name: str) -> Optional[Any]:
    """Returns a module, or None where it is not installed or its installation does not start.

    MXNet, for one, fails with an AttributeError on any NumPy of the last years.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError):
        return None

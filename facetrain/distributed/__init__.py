"""One face for one device, several replicas in a process, and several processes; imports no TensorFlow by itself."""

from __future__ import annotations

import importlib
from typing import Any

from facetrain.distributed.launch import Launch, launch_command

__all__ = ["Launch", "Runtime", "launch_command", "logical_cpu_devices"]


def __getattr__(name: str) -> Any:
    if name in ("Runtime", "logical_cpu_devices", "KINDS"):
        return getattr(importlib.import_module(f"{__name__}.runtime"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "Runtime", "logical_cpu_devices", "KINDS"})

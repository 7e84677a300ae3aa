"""``facetrain doctor``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import typer

from facetrain import __version__
from facetrain.cli.output import print_json, print_table, print_text
from facetrain.compiled import HOW_TO_BUILD
from facetrain.errors import InputError

_log = logging.getLogger(__name__)


def doctor(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    build_ops: bool = typer.Option(
        False, "--build-ops", help="First compile what makes training and decoding faster, if a C++ compiler is here."
    ),
) -> None:
    """Show versions, devices and what is missing.

    The exit code is 1 if training is not possible.
    """
    from facetrain.cli.environment import collect

    report = {"facetrain": __version__, **collect()}
    if build_ops:
        _build(report)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if not (
        report["python"]["supported"] and all(row["ready"] for row in report["commands"] if row["command"] == "train")
    ):
        raise typer.Exit(1)


def _build(report: dict[str, Any]) -> None:
    """Compiles our libraries, each as far as it can be, and reports anew."""
    from facetrain.data.jpeg import JPEG
    from facetrain.layers.native import PRELU

    for key, library in (("native", PRELU), ("decoder", JPEG)):
        if report.get(key, {}).get("compiler"):
            try:
                library.build()
                report[key] = library.describe()
            except InputError as error:
                report[key]["failed"] = str(error)
                _log.warning("%s", error)


def _print(report: Mapping[str, Any]) -> None:
    python, machine = report["python"], report["machine"]
    unsupported = "" if python["supported"] else "  NOT SUPPORTED: use Python 3.9, 3.10 or 3.11"
    print_table(
        ["what", "found"],
        [
            ("facetrain", report["facetrain"]),
            ("python", f"{python['version']} ({python['executable']}){unsupported}"),
            ("system", machine["system"]),
            ("processor", f"{machine['cpu']}, {machine['cores']} cores"),
            ("instructions", " ".join(machine["cpu_features"]) or None),
            ("precision", _advise_precision(report)),
            ("free disk here", f"{machine['disk_free_gb']} GB"),
            ("devices", report["devices"]),
            ("tensorflow", _state(report.get("tensorflow"), "cuda_build", "CUDA ")),
            ("horovod", _state(report.get("horovod"), "built_with", "built with ")),
            ("own operations", _describe_library(report.get("native"), "PReLU trains faster on CPUs")),
            ("own decoder", _describe_library(report.get("decoder"), "JPEG crops are decoded faster")),
        ],
    )
    print_text("")
    print_table(["package", "version"], [(name, version or "missing") for name, version in report["packages"].items()])
    print_text("")
    rows = [(row["command"], row["ready"], "; ".join(row["missing"]) or None) for row in report["commands"]]
    print_table(["command", "ready", "missing"], rows)


def _state(state: Any, key: str, prefix: str) -> str:
    if not state:
        return "does not import"
    if not state["imports"]:
        return f"does not import: {state['error']}"
    value = state.get(key)
    text = ", ".join(value) if isinstance(value, list) else value
    return f"imports, {prefix}{text}" if text else "imports, for CPU"


def _describe_library(state: Any, gain: str) -> str:
    if not state or "error" in state:
        return f"unknown: {state['error']}" if state else "unknown"
    if state["loads"]:
        return f"built and loads: {gain}"
    found = "does not load" if state["built"] else "not built"
    remedy = HOW_TO_BUILD if state["compiler"] else "no C++ compiler is here"
    return f"{found} ({state.get('failed', remedy)}); all works without, slower"


def _advise_precision(report: Mapping[str, Any]) -> str:
    if any(device.startswith("GPU") for device in report["devices"]):
        return "train.precision=mixed_float16 is fastest on most GPUs"
    if {"avx512_bf16", "amx_bf16"} & set(report["machine"]["cpu_features"]):
        return "train.precision=mixed_bfloat16 is fastest on this processor"
    return "train.precision=float32 is fastest on this processor"

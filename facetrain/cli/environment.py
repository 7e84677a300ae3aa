"""What this machine and this Python have, found out without importing anything heavy into the process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Optional

SUPPORTED_PYTHONS = ((3, 9), (3, 10), (3, 11))
_PROBE_TIMEOUT_S = 180


class Package(NamedTuple):
    """A Python package: the module to look for, who may provide it, and how to get it."""

    module: str
    distributions: tuple[str, ...]
    install: str


class Need(NamedTuple):
    """What one command needs to run."""

    command: str
    modules: tuple[str, ...]


PACKAGES = (
    Package("tensorflow", ("tensorflow", "tensorflow-cpu"), "pip install tensorflow==2.15.1"),
    Package("keras", ("keras",), "pip install keras==2.15.0"),
    Package("tensorflow_addons", ("tensorflow-addons",), "pip install tensorflow-addons==0.23.0"),
    Package("horovod", ("horovod",), "scripts/install_horovod.sh"),
    Package("keras_tuner", ("keras-tuner",), "pip install 'facetrain[tune]'"),
    Package("numpy", ("numpy",), "pip install 'numpy<2'"),
    Package("cv2", ("opencv-python-headless", "opencv-python"), "pip install opencv-python-headless"),
    Package("skimage", ("scikit-image",), "pip install scikit-image"),
    Package("pydantic", ("pydantic",), "pip install pydantic"),
    Package("yaml", ("PyYAML",), "pip install PyYAML"),
    Package("matplotlib", ("matplotlib",), "pip install matplotlib"),
    Package("jinja2", ("jinja2",), "pip install jinja2"),
    Package("tensorboard", ("tensorboard",), "pip install 'tensorboard<2.16'"),
    Package("tf2onnx", ("tf2onnx",), "pip install 'facetrain[onnx]'"),
    Package("onnx", ("onnx",), "pip install 'facetrain[onnx]'"),
    Package("onnxruntime", ("onnxruntime",), "pip install 'facetrain[onnx]'"),
)
_IMAGES = ("numpy", "cv2")
_MODEL = ("tensorflow", *_IMAGES)
NEEDS = (
    Need("train", (*_MODEL, "pydantic", "yaml", "matplotlib", "jinja2", "tensorboard")),
    Need("evaluate", (*_MODEL, "matplotlib", "jinja2")),
    Need("compare", _MODEL),
    Need("align", _IMAGES),
    Need("data", _IMAGES),
    Need("export", _MODEL),
    Need("profile", _MODEL),
    Need("report", (*_MODEL, "matplotlib", "jinja2")),
    Need("show", ("pydantic", "yaml", "numpy")),
    Need("scripts/train_horovod.py", (*_MODEL, "horovod")),
)
# Instructions that decide how fast convolutions run, as /proc/cpuinfo calls them.
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

# Imports happen in a process of their own: a broken TensorFlow may end it, and takes seconds to start.
_PROBE = """
import json, os, sys
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
def say(key, value):
    out.write(json.dumps({key: value}) + "\\n")
    out.flush()
def first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
try:
    import tensorflow as tf
    build = tf.sysconfig.get_build_info()
    cuda = str(build.get("cuda_version")) if build.get("is_cuda_build") else None
    say("tensorflow", {"imports": True, "cuda_build": cuda})
    say("devices", [f"{d.device_type}: {tf.config.experimental.get_device_details(d).get('device_name', d.name)}"
                    for d in tf.config.list_physical_devices()])
except Exception as error:
    say("tensorflow", {"imports": False, "error": first_line(error)})
try:
    import horovod.tensorflow as hvd
    parts = {"gloo": hvd.gloo_built, "mpi": hvd.mpi_built, "nccl": hvd.nccl_built, "cuda": hvd.cuda_built}
    say("horovod", {"imports": True, "built_with": [name for name, built in parts.items() if built()]})
except Exception as error:
    say("horovod", {"imports": False, "error": first_line(error)})
try:
    from facetrain.layers.native import PRELU
    say("native", PRELU.describe())
except Exception as error:
    say("native", {"loads": False, "error": first_line(error)})
try:
    from facetrain.data.jpeg import JPEG
    say("decoder", JPEG.describe())
except Exception as error:
    say("decoder", {"loads": False, "error": first_line(error)})
"""


def collect(probe: bool = True) -> dict[str, Any]:
    """Returns everything that is worth knowing about this environment.

    Args:
        probe: whether to import TensorFlow and Horovod in a process of their own, which takes seconds.
    """
    found = {package.module: _version(package) for package in PACKAGES}
    broken: dict[str, str] = {}
    report: dict[str, Any] = {"python": describe_python(), "packages": found, "machine": describe_machine()}
    if probe:
        report.update(run_probe())
        for module in ("tensorflow", "horovod"):
            state = report.get(module, {})
            if found[module] is not None and not state.get("imports", False):
                broken[module] = state.get("error", "its import ends the process")
    report["commands"] = [judge_need(need, found, broken) for need in NEEDS]
    return report


def describe_python() -> dict[str, Any]:
    """Returns version and path of this Python, and whether it is one that is supported."""
    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "supported": sys.version_info[:2] in SUPPORTED_PYTHONS,
    }


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo"), folder: Path = Path(".")) -> dict[str, Any]:
    """Returns processor, its instructions that matter, and free disk space in the working directory."""
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(),
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cores": cores,
        "cpu_features": [flag for flag in _CPU_FLAGS if flag in flags],
        "disk_free_gb": round(shutil.disk_usage(folder).free / 1e9, 1),
    }


def judge_need(need: Need, found: dict[str, Optional[str]], broken: dict[str, str]) -> dict[str, Any]:
    """Returns what a command lacks, with the command that brings it."""
    by_module = {package.module: package for package in PACKAGES}
    missing = [f"{module}: {by_module[module].install}" for module in need.modules if found[module] is None]
    failing = [f"{module} does not import: {broken[module]}" for module in need.modules if module in broken]
    return {"command": need.command, "ready": not missing and not failing, "missing": missing + failing}


def run_probe(code: str = _PROBE) -> dict[str, Any]:
    """Imports TensorFlow and Horovod in a process of their own and returns what they say of themselves."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code]
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, env=environment, check=False
        ).stdout
    except subprocess.TimeoutExpired as error:
        # Typed as text or bytes by platform and Python version.
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    report: dict[str, Any] = {"devices": []}
    for line in output.splitlines():
        report.update(json.loads(line))
    return report


def _version(package: Package) -> Optional[str]:
    if importlib.util.find_spec(package.module) is None:
        return None
    for distribution in package.distributions:
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return version if distribution == package.distributions[0] else f"{version} ({distribution})"
    return "of unknown version"

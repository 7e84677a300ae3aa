"""From an exception to one sentence on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Any, Optional

from facetrain.errors import InputError

EXIT_FAILURE, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130
TRACEBACK_VARIABLE = "FACETRAIN_TRACEBACK"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_PIP_NAMES = {
    "tensorflow": "tensorflow==2.15.1",
    "tensorflow_addons": "tensorflow-addons==0.23.0",
    "cv2": "opencv-python-headless",
    "yaml": "PyYAML",
    "skimage": "scikit-image",
    "tf2onnx": "'facetrain[onnx]'",
    "onnx": "'facetrain[onnx]'",
    "onnxruntime": "'facetrain[onnx]'",
    "keras_tuner": "'facetrain[tune]'",
}


def report_failure(error: BaseException, show_traceback: Optional[bool] = None) -> int:
    """Writes what went wrong to stderr and returns the exit code.

    Args:
        error: what a command raised.
        show_traceback: whether to write the whole traceback; None asks the environment variable.
    Returns:
        2 for input that the user can mend, 130 for Ctrl-C, 1 for anything else.
    """
    if show_traceback is None:
        show_traceback = os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")
    if show_traceback and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    code, sentence = _judge(error)
    sys.stderr.write(f"{sentence}\n")
    return code


def _judge(error: BaseException) -> tuple[int, str]:
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, f"stopped: {error}" if str(error) else "stopped"
    if isinstance(error, InputError):
        return EXIT_INPUT, f"error: {error}"
    # TensorFlow reports a full disk in an exception class of its own.
    if (isinstance(error, OSError) and error.errno in _DISK_FULL) or "No space left on device" in str(error):
        return EXIT_INPUT, f"error: no space left on the disk{_place(error)}: free some, or write elsewhere"
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return EXIT_INPUT, f"error: {error.strerror}{_place(error)}: change the permissions, or take another path"
    if isinstance(error, OSError) and error.filename is not None:
        return EXIT_INPUT, f"error: {error.strerror}{_place(error)}: check the path"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("facetrain"):
        package = error.name.partition(".")[0]
        pip = _PIP_NAMES.get(package, package)
        return EXIT_FAILURE, (
            f"error: this command needs the Python package '{package}', which is not installed: "
            f"pip install {pip} ('facetrain doctor' shows what else is missing)"
        )
    text = " ".join(str(error).split()) or "no message"
    short = text if len(text) <= 300 else f"{text[:297]}..."
    return EXIT_FAILURE, (
        f"failed: {type(error).__name__}: {short} (facetrain --traceback ... or {TRACEBACK_VARIABLE}=1 shows where)"
    )


def _place(error: Any) -> str:
    name = getattr(error, "filename", None)
    return f" at '{os.fsdecode(name)}'" if isinstance(name, (str, bytes, os.PathLike)) else ""

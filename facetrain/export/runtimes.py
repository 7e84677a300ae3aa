"""Running exported models by the runtime of their format; TensorFlow is imported only where the format needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from facetrain.export.parity import EmbedFunction

_SIGNATURE = "serving_default"


def load_onnx(path: Path, threads: int = 0) -> EmbedFunction:
    """Returns the embedding function of an ONNX model, by onnxruntime on the processor.

    Args:
        path: the file.
        threads: threads of one operator; 0 leaves it to the runtime.

    Raises:
        ModuleNotFoundError: if onnxruntime is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(images: np.ndarray) -> np.ndarray:
        return session.run(None, {name: images.astype(np.float32)})[0]

    return embed


def load_tflite(path: Path, threads: int | None = None) -> EmbedFunction:
    """Returns the embedding function of a TensorFlow Lite model, its numbers float32 whatever the file computes in.

    It runs as on a phone: XNNPACK computes what it can.

    Args:
        path: the file.
        threads: threads of the interpreter; None leaves it to the runtime.
    """
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path), num_threads=threads)
    # A signature alone would be prepared without XNNPACK, and take half as long again.
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(_SIGNATURE)
    given, returned = runner.get_input_details()["pixels"], runner.get_output_details()["embedding"]
    batch_size = int(given["shape"][0])

    def embed(images: np.ndarray) -> np.ndarray:
        padding = -len(images) % batch_size
        pixels = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)])
        batches = _quantised(pixels, given).reshape(-1, batch_size, *pixels.shape[1:])
        results = np.concatenate([runner(pixels=batch)["embedding"] for batch in batches])[: len(images)]
        return _restored(results, returned)

    return embed


def load_savedmodel(path: Path) -> EmbedFunction:
    """Returns the embedding function of a SavedModel: its signature for images."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures[_SIGNATURE]

    def embed(images: np.ndarray) -> np.ndarray:
        return serve(images=tf.constant(images))["embedding"].numpy()

    embed.owner = loaded  # signatures hold their model only weakly
    return embed


def _quantised(pixels: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Returns pixels as the input takes them; 0..255 is its own quantised form where the scale is 1."""
    scale, zero = details["quantization"]
    if scale == 0:
        return pixels.astype(details["dtype"])
    levels = np.iinfo(details["dtype"])
    return np.clip(np.round(pixels / scale + zero), levels.min, levels.max).astype(details["dtype"])


def _restored(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero = details["quantization"]
    return values if scale == 0 else (values.astype(np.float32) - zero) * np.float32(scale)

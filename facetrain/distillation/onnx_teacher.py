"""An ONNX file as a teacher, ours or a stranger's; its embeddings come with the batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Optional

import numpy as np

from facetrain.distillation.pixel_teacher import checked_embeddings, resized
from facetrain.errors import InputError, did_you_mean
from facetrain.export.onnx import METADATA_NAME
from facetrain.files import sha256_file
from facetrain.images import SCALINGS, scale_pixels
from facetrain.models.contract import TEMPLATES, Contract

_ORDERS = ("RGB", "BGR")
_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class InputContract:
    """What a foreign ONNX file expects, which nothing in the file says.

    Attributes:
        input_size: side of the crops, pixels.
        scaling: name of the pixel scaling that whoever calls it applies, a key of ``facetrain.images.SCALINGS``.
        channel_order: ``RGB`` or ``BGR``.
        template: landmark template that crops are aligned to.
    """

    input_size: int
    scaling: str
    channel_order: str
    template: str

    @classmethod
    def of(cls, values: Any, origin: str) -> InputContract:
        """Checks values from JSON or YAML.

        Raises:
            InputError: naming a key that is missing, unknown or has a value it cannot have.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"{origin}: expected a mapping, received {type(values).__name__}")
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"{origin}: unknown key {key!r}{did_you_mean(key, known)}; it has {', '.join(known)}")
        missing = [key for key in known if key not in values]
        if missing:
            raise InputError(f"{origin}: {', '.join(missing)} must be given; nothing is guessed")
        size = values["input_size"]
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1024:
            raise InputError(f"{origin}: input_size must be a whole number from 1 to 1024, received {size!r}")
        choices = {"scaling": tuple(SCALINGS), "channel_order": _ORDERS, "template": TEMPLATES}
        for key, allowed in choices.items():
            if values[key] not in allowed:
                hint = did_you_mean(values[key], allowed)
                raise InputError(f"{origin}: {key} must be one of {', '.join(allowed)}, received {values[key]!r}{hint}")
        return cls(**values)


class OnnxTeacher:
    """An ``.onnx`` file from images to embeddings, run by onnxruntime on the processor.

    What it expects is taken from the metadata that facetrain's exporter writes, else from ``contract``, else from a
    file ``<name>.json`` beside it with the keys of ``InputContract``. Whether channels come first is seen in the graph.

    Args:
        path: the file.
        contract: values of an ``InputContract``, for a file without metadata.
    Raises:
        InputError: if it is no such file, or nothing says what it expects.
        ModuleNotFoundError: if onnxruntime is not installed.
    """

    kind = "onnx"
    in_step = False

    def __init__(self, path: Path, contract: Optional[Mapping[str, Any]] = None):
        self._path, self._session = path, _open(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        if len(shape) != 4 or inputs[0].type != "tensor(float)" or 3 not in (shape[1], shape[3]):
            found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise InputError(
                f"{path}: expected one input of images, float [batch, S, S, 3] or [batch, 3, S, S]: {found}"
            )
        self._name, self._output, self._channels_first = inputs[0].name, outputs[0].name, shape[1] == 3
        self._batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.contract, self.expects = self._contract(contract)
        self.input_size = self.expects.input_size
        fixed = [side for side in (shape[2:] if self._channels_first else shape[1:3]) if isinstance(side, int)]
        if any(side != self.input_size for side in fixed):
            raise InputError(f"{path}: its input is {shape}, but its contract says input_size {self.input_size}")
        self.embedding_size = self._measure()
        self._digest = sha256_file(path)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Returns embeddings float32 [B, D] of crops uint8 [B, S, S, 3], RGB, of any size S."""
        return checked_embeddings(self._run(images), len(images), self.embedding_size, self._path)

    def describe(self) -> dict[str, Any]:
        """Returns ``kind``, ``digest`` and ``contract``."""
        return {"kind": self.kind, "digest": self._digest, "contract": self.contract}

    def _run(self, images: np.ndarray) -> np.ndarray:
        pixels = resized(images, self.input_size)
        pixels = pixels[..., ::-1] if self.expects.channel_order == "BGR" else pixels
        scaled = scale_pixels(pixels, self.expects.scaling)
        scaled = scaled.transpose(0, 3, 1, 2) if self._channels_first else scaled
        size = self._batch or len(scaled)
        fill = -len(scaled) % size
        scaled = np.ascontiguousarray(np.concatenate([scaled, np.repeat(scaled[-1:], fill, axis=0)]))
        parts = [scaled[start : start + size] for start in range(0, len(scaled), size)]
        found = [self._session.run([self._output], {self._name: part})[0] for part in parts]
        return np.concatenate(found)[: len(images)]

    def _measure(self) -> int:
        found = self._run(np.zeros((1, self.input_size, self.input_size, 3), np.uint8))
        if found.ndim != 2 or found.shape[0] != 1:
            raise InputError(f"{self._path}: should return embeddings [batch, D], returned {list(found.shape)}")
        return int(found.shape[1])

    def _contract(self, given: Optional[Mapping[str, Any]]) -> tuple[dict[str, Any], InputContract]:
        """Returns the contract as it is written down, and what the graph expects."""
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_NAME)
        if text is not None:
            if given is not None:
                raise InputError(f"{self._path}: its metadata say what it expects; leave the contract out")
            try:
                ours = Contract.from_dict(json.loads(text))
            except (ValueError, TypeError) as error:
                raise InputError(f"{self._path}: its metadata hold no contract ({error})") from error
            return ours.to_dict(), InputContract(ours.input_size, "raw", ours.channel_order, ours.template)
        if given is not None:
            expects = InputContract.of(given, f"contract of {self._path}")
        else:
            expects = InputContract.of(self._beside(), str(self._path.with_suffix(".json")))
        return asdict(expects), expects

    def _beside(self) -> Any:
        path = self._path.with_suffix(".json")
        keys = ", ".join(field.name for field in fields(InputContract))
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise InputError(f"{path}: larger than {_MAX_JSON_BYTES} bytes")
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{self._path}: nothing says what its input should look like; give {keys} in {path}, or as the "
                "teacher's contract"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: expected JSON with {keys} ({error})") from error


def _open(path: Path) -> Any:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputError(f"{path}: expected an ONNX model, but onnxruntime refuses it ({reason[:200]})") from error

"""The end of every conversion: check, write under a temporary name, read back, judge, and only then put in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tensorflow import keras

from facetrain.convert.conversion import Conversion, ConvertOptions, Judge
from facetrain.convert.inputs import Expected, read_crops, read_expected, seeded_pixels
from facetrain.convert.report import MAX_DIFFERENCE, Agreement, ConversionReport, compare, first_names
from facetrain.convert.terms import agree, take_rgb
from facetrain.errors import InputError
from facetrain.files import PathLike, atomic_folder, write_json
from facetrain.images import scale_pixels
from facetrain.layers.dropout import SeededDropout
from facetrain.models.contract import CONTRACT_FILE, Contract
from facetrain.models.embedding_model import MODEL_FILE, load_embedding_model

REPORT_FILE = "conversion.json"
_OWN_FILES = frozenset({MODEL_FILE, CONTRACT_FILE, REPORT_FILE})
_BATCH = 16


def finish_conversion(conversion: Conversion, out: PathLike, options: ConvertOptions) -> ConversionReport:
    """Checks a rebuilt model, writes it as a model folder and proves that it computes what its source does.

    The folder holds ``model.keras``, ``contract.json`` and ``conversion.json`` (the report). It is written under a
    temporary name and read back; the model that was read back is compared with every judge there is, and only if all
    agree the folder is put in place.

    Args:
        conversion: what a format has rebuilt.
        out: folder to write; it may be new, empty, or the result of an earlier conversion.
        options: what the user says about the model.
    Raises:
        InputError: if tensors are left over on either side, the contract is incomplete, an embedding is not finite or
            a judge disagrees. Nothing is written then.
    """
    target = Path(out)
    _check_target(target)
    _check_matching(conversion, options)
    contract, channels = agree(conversion, options)
    expected = read_expected(options.expect, options.expect_output, contract) if options.expect else None
    crops = read_crops(options.images, contract.input_size) if options.images else None
    take_rgb(conversion.model, channels, conversion.source)
    with atomic_folder(target) as temporary:
        conversion.model.save(temporary / MODEL_FILE)
        contract.save(temporary)
        model, contract = load_embedding_model(temporary)
        trial = _Trial(model, contract, channels, conversion)
        agreements = trial.on_pixels("seeded noise", seeded_pixels(contract.input_size))
        if crops is not None:
            agreements += trial.on_pixels("face crops", crops)
        if expected is not None:
            agreements.append(trial.on_expected(expected))
        report = ConversionReport(
            path=str(target),
            source=conversion.source,
            family=conversion.family,
            parameters=sum(layer.count_params() for layer in model.layers if not isinstance(layer, SeededDropout)),
            matching=conversion.matching,
            epsilons=conversion.epsilons,
            agreements=tuple(agreements),
            contract=contract.to_dict(),
            channels=channels,
            notes=_notes(conversion, channels),
        )
        write_json(temporary / REPORT_FILE, report.to_dict())
    return report


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: expected a folder to write, found a file; take another name")
    others = sorted(path.name for path in target.iterdir() if path.name not in _OWN_FILES) if target.is_dir() else []
    if others:
        raise InputError(f"{target}: it holds other things ({others[0]}) that would be lost; take a new folder")


def _check_matching(conversion: Conversion, options: ConvertOptions) -> None:
    unused, missing = conversion.matching.unused, conversion.matching.missing
    if options.allow_unmatched or not (unused or missing):
        return
    told = [f"the file has no tensor for {first_names(missing)}"] if missing else []
    told += [f"the network has no place for {first_names(unused)}"] if unused else []
    raise InputError(
        f"{conversion.source}: expected the tensors of {conversion.family}, but {', and '.join(told)}; it is another "
        "network, or give --allow-unmatched if you know better"
    )


def _notes(conversion: Conversion, channels: str) -> tuple[str, ...]:
    if channels == "RGB":
        return conversion.notes
    turned = f"trained on {channels}: the first convolution was turned, so that the model takes RGB"
    return (*conversion.notes, turned)


class _Trial:
    """The model that was read back, before its judges."""

    def __init__(self, model: keras.Model, contract: Contract, channels: str, conversion: Conversion):
        self.model, self.contract, self.channels, self.conversion = model, contract, channels, conversion

    def on_pixels(self, what: str, pixels: np.ndarray) -> list[Agreement]:
        """Asks every judge about pixels uint8 [N, S, S, 3] RGB."""
        scaled = scale_pixels(pixels, self.contract.scaling)
        received = self._embed(scaled)
        inputs = pixels.astype(np.float32) if self.conversion.scales_itself else scaled
        inputs = inputs if self.channels == "RGB" else inputs[..., ::-1]
        judges = self.conversion.judges
        return [self._judged(judge, what, _in_batches(judge, inputs), received) for judge in judges]

    def on_expected(self, expected: Expected) -> Agreement:
        """Compares with outputs that the original software gave, for inputs as it takes them."""
        inputs = expected.inputs if self.channels == "RGB" else expected.inputs[..., ::-1]
        if self.conversion.scales_itself or expected.in_pixels:
            inputs = scale_pixels(inputs, self.contract.scaling)
        judge = Judge("outputs of the original software", lambda _: expected.outputs)
        return self._judged(judge, expected.name, expected.outputs, self._embed(inputs))

    def _embed(self, scaled: np.ndarray) -> np.ndarray:
        starts = range(0, len(scaled), _BATCH)
        parts = [self.model(scaled[start : start + _BATCH], training=False).numpy() for start in starts]
        embeddings = np.concatenate(parts)
        if not np.isfinite(embeddings).all():
            raise InputError(
                f"{self.conversion.source}: the converted model gives embeddings that are not finite; its weights have "
                "probably diverged in training"
            )
        return embeddings

    def _judged(self, judge: Judge, what: str, expected: np.ndarray, received: np.ndarray) -> Agreement:
        if expected.shape != received.shape:
            raise InputError(
                f"{self.conversion.source}: the {judge.name} are of shape {list(expected.shape)}, the converted model "
                f"gives {list(received.shape)} on {what}; they belong to another model"
            )
        agreement = compare(judge.name, what, expected, received)
        if not agreement.holds:
            raise InputError(
                f"{self.conversion.source}: nothing was written, because the model rebuilt as "
                f"{self.conversion.family} differs from the {judge.name} by {agreement.max_abs_diff:.2g} on {what} "
                f"(cosine {agreement.min_cosine:.4f}), expected at most {MAX_DIFFERENCE:g}; scaling, channel order, BN "
                "epsilon or the network itself are others"
            )
        return agreement


def _in_batches(judge: Judge, inputs: np.ndarray) -> np.ndarray:
    starts = range(0, len(inputs), _BATCH)
    return np.concatenate([np.asarray(judge.embed(inputs[start : start + _BATCH])) for start in starts])
